"""A failing first connection raises one typed line with a remedy, and never shows a password."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import (
    BrokerError,
    BrokerRefused,
    BrokerUnreachable,
    ConfigError,
    FedbrokerError,
    NameTaken,
    TopologyMismatch,
)
from tests.support.proxy import Proxy
from tests.support.transports import (
    EchoSilo,
    RecordingCoordinator,
    coordinator_transport,
    eventually,
    queue_admin,
    silo_transport,
)

SECRET = "s3cr3t-pass"


async def refusal(url: str, cohort: str, kind: type[FedbrokerError], seconds: float = 5.0) -> str:
    """Return the error that both sides raise for a URL: one kind, one line, with a hint, without a password."""
    lines = []
    for make in (lambda: EchoSilo(url, cohort).transport, lambda: RecordingCoordinator(url, cohort).transport):
        with pytest.raises(kind) as caught:
            await make().open(Deadline.after(seconds))
        assert type(caught.value) is kind
        assert caught.value.hint
        for shown in (str(caught.value), repr(caught.value)):
            assert "\n" not in shown
            assert SECRET not in shown
            assert url.split("@")[0].rpartition(":")[2] not in shown
        assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
        lines.append(str(caught.value))
    assert lines[0] == lines[1]
    return lines[0]


def with_password(url: str, password: str) -> str:
    head, at, tail = url.rpartition("@")
    return head.rpartition(":")[0] + ":" + password + at + tail


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def stranger(answer: bytes | None) -> AsyncIterator[int]:
    """Run a server that answers any client with these bytes and disconnects; None: it stays connected and silent."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read(8)
        if answer is not None:
            writer.write(answer)
            writer.close()
        else:
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def test_unknown_host_is_an_error(cohort: str) -> None:
    line = await refusal(f"amqp://me:{SECRET}@nosuch.invalid/", cohort, BrokerUnreachable)
    assert "host name 'nosuch.invalid' cannot be resolved" in line


async def test_closed_port_is_an_error(cohort: str, free_port: int) -> None:
    line = await refusal(f"amqp://me:{SECRET}@127.0.0.1:{free_port}/", cohort, BrokerUnreachable)
    assert f"no server is listening at amqp://me@127.0.0.1:{free_port}/" in line


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x01\x00\x00", b"\x01" * 100])
async def test_server_that_is_no_broker_is_an_error(cohort: str, answer: bytes) -> None:
    async with stranger(answer) as port:
        line = await refusal(f"amqp://me:{SECRET}@127.0.0.1:{port}/", cohort, BrokerUnreachable)
    assert "does not speak AMQP" in line


@pytest.mark.alone
async def test_silent_server_is_an_error(cohort: str) -> None:
    async with stranger(None) as port:
        started = time.monotonic()
        line = await refusal(f"amqp://me:{SECRET}@127.0.0.1:{port}/", cohort, BrokerUnreachable, 0.3)
        assert time.monotonic() - started < 3
    assert "did not answer in time" in line


async def test_tls_to_a_plain_port_is_an_error(broker: PrivateBroker, cohort: str) -> None:
    line = await refusal(broker.url.replace("amqp://", "amqps://"), cohort, BrokerUnreachable)
    assert "no TLS connection" in line


async def test_wrong_password_is_an_error(broker: PrivateBroker, cohort: str) -> None:
    line = await refusal(with_password(broker.url, SECRET), cohort, BrokerRefused)
    assert "refused the login of user" in line


async def test_unknown_virtual_host_is_an_error(broker: PrivateBroker, cohort: str) -> None:
    line = await refusal(broker.url + "nosuch", cohort, BrokerRefused)
    assert "refused vhost 'nosuch'" in line
    assert "vhost nosuch not found" in line  # the broker's words


@pytest.fixture
def limited(broker: PrivateBroker) -> Iterator[tuple[str, Callable[[str], object]]]:
    """Make a virtual host; return its URL and a function that sets its limits."""
    name = "v" + secrets.token_hex(4)
    user = broker.url.partition("//")[2].partition(":")[0]
    broker.ctl("add_vhost", name)
    broker.ctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
    yield broker.url + name, lambda limits: broker.ctl("set_vhost_limits", "-p", name, limits)
    broker.ctl("delete_vhost", name)


async def test_limit_of_connections_is_named(limited: tuple[str, Callable[[str], object]], cohort: str) -> None:
    url, limit = limited
    limit('{"max-connections": 0}')
    line = await refusal(url, cohort, BrokerRefused)
    assert "connection limit (0) is reached; have the broker's operator raise the limit" in line
    assert "correct the vhost" not in line


async def test_limit_of_queues_is_named(limited: tuple[str, Callable[[str], object]], cohort: str) -> None:
    url, limit = limited
    limit('{"max-queues": 0}')
    for transport in (EchoSilo(url, cohort).transport, RecordingCoordinator(url, cohort).transport):
        with pytest.raises(BrokerRefused, match=r"the broker makes no queue 'fedbroker\.") as caught:
            await transport.open(Deadline.after(10))
        assert type(caught.value) is BrokerRefused
        assert "(0) is reached" in caught.value.what
        assert "raise the limit" in caught.value.hint
        assert "delete" not in str(caught.value)
    limit('{"max-queues": 100}')
    async with silo_transport(url, cohort), coordinator_transport(url, cohort) as coordinator:
        assert await coordinator.ask("ewr") == b"ok"


@pytest.fixture(scope="module")
def poor_url(broker: PrivateBroker) -> Iterator[str]:
    """Create a user who may log in and nothing else."""
    name = "poor" + secrets.token_hex(3)
    broker.ctl("add_user", name, SECRET)
    broker.ctl("set_permissions", name, "^nothing$", "^nothing$", "^nothing$")
    yield f"amqp://{name}:{SECRET}@127.0.0.1:{broker.port}/"
    broker.ctl("delete_user", name)


async def test_missing_permission_is_an_error(poor_url: str, cohort: str) -> None:
    line = await refusal(poor_url, cohort, BrokerRefused)
    assert "no permission for exchange 'fedbroker.work'" in line


@pytest.mark.parametrize("queue", ["fedbroker.lobby.{}", "fedbroker.dead.{}"])
async def test_queue_with_other_properties_is_an_error(broker: PrivateBroker, cohort: str, queue: str) -> None:
    name = queue.format(cohort)
    async with queue_admin(broker.url) as look:
        await look.declare(name, durable=True, arguments={"x-message-ttl": 17})
        line = await refusal(broker.url, cohort, TopologyMismatch)
        await look.delete(name)
    assert f"queue '{name}' exists at the broker with properties that differ" in line


async def test_silo_queue_with_other_properties_is_an_error(broker: PrivateBroker, cohort: str) -> None:
    name = f"fedbroker.work.{cohort}.ewr"
    async with queue_admin(broker.url) as look:
        await look.declare(name, durable=True)
        with pytest.raises(TopologyMismatch, match=name):
            await EchoSilo(broker.url, cohort).transport.open(Deadline.after(5))
        await look.delete(name)
    async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort) as coordinator:
        assert await coordinator.ask("ewr") == b"ok"


@pytest.mark.alone
async def test_second_silo_of_a_name_is_refused(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as first, coordinator_transport(broker.url, cohort) as coordinator:
        started = time.monotonic()
        second = EchoSilo(broker.url, cohort)
        with pytest.raises(NameTaken, match="'ewr' is already in cohort"):
            await second.transport.open(Deadline.after(20))
        assert 1.5 < time.monotonic() - started < 4  # a lingering lock is waited for
        assert await coordinator.ask("ewr") == b"ok"
        assert (len(first.items), len(second.items)) == (1, 0)
    async with silo_transport(broker.url, cohort):
        pass


async def test_released_name_is_acquired(broker: PrivateBroker, cohort: str) -> None:
    first = EchoSilo(broker.url, cohort)
    await first.transport.open(Deadline.after(5))
    second = EchoSilo(broker.url, cohort)
    opening = asyncio.create_task(second.transport.open(Deadline.after(20)))
    async with Proxy(broker.url):  # time for one or two attempts
        await first.transport.close()
    await opening
    await second.transport.close()


async def test_second_coordinator_of_an_id_is_refused(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort),
        coordinator_transport(broker.url, cohort, key="k1" + cohort) as first,
    ):
        with pytest.raises(BrokerRefused, match="in use by another connection"):
            await RecordingCoordinator(broker.url, cohort, key="k1" + cohort).transport.open(Deadline.after(5))
        assert await first.ask("ewr") == b"ok"


async def test_broker_that_disconnects_during_open_is_an_error(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy:
        opening = asyncio.create_task(EchoSilo(proxy.url, cohort).transport.open(Deadline.after(5)))
        await eventually(lambda: proxy.connections > 0)
        await proxy.refuse()
        with pytest.raises(BrokerError):
            await opening


async def test_opening_can_be_cancelled(broker: PrivateBroker, cohort: str) -> None:
    makers: list[Callable[[], EchoSilo | RecordingCoordinator]] = [
        lambda: EchoSilo(broker.url, cohort),
        lambda: RecordingCoordinator(broker.url, cohort),
    ]
    for make in makers:
        for turns in range(0, 60, 3):
            opening = asyncio.create_task(make().transport.open(Deadline.after(5)))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
    async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort) as coordinator:
        assert await coordinator.ask("ewr") == b"ok"


@pytest.mark.parametrize("heartbeat", [0.0, -1.0, 60.1, float("nan")])
def test_heartbeats_are_checked(heartbeat: float) -> None:
    with pytest.raises(ConfigError, match="heartbeat"):
        EchoSilo("amqp://localhost/", "c", heartbeat=heartbeat)
