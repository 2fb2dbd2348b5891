"""Failures of connections, channels, queues and the broker itself: both sides recover completely."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import aiormq.exceptions
import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, Missing
from fedbroker.transport import Dead
from fedbroker.transport.amqp import connection, reconnecting
from fedbroker.transport.amqp.delays import delays
from fedbroker.transport.topology import callback_queue, mailbox, results_queue, work_queue
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Done
from tests.support.proxy import Proxy
from tests.support.transports import (
    EchoSilo,
    RecordingCoordinator,
    coordinator_transport,
    eventually,
    queue_admin,
    silo_transport,
    work_item,
)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """Run a broker that tests may kill; it keeps its data.

    A quorum queue that is less than a second old when its node is killed has no leader afterwards (RabbitMQ 3.10);
    so the queue of this broker's only cohort, ``mortal``, is declared at first, and has seen an orderly restart.
    """

    async def declare(url: str) -> None:
        async with silo_transport(url, "mortal"):
            pass

    directory: Path = tmp_path_factory.mktemp("broker")
    with PrivateBroker(directory=directory) as node:
        asyncio.run(declare(node.url))
    with PrivateBroker(directory=directory) as node:
        yield node


@asynccontextmanager
async def both(url: str, cohort: str) -> AsyncIterator[tuple[EchoSilo, RecordingCoordinator]]:
    async with silo_transport(url, cohort) as silo, coordinator_transport(url, cohort) as coordinator:
        yield silo, coordinator


async def all_is_well(silo: EchoSilo, coordinator: RecordingCoordinator, stage: int) -> None:
    """Check work, a reply, and small and large blobs in both directions, and that the silo is known."""
    data = secrets.token_bytes(2**21)
    digest = digest_of(data)
    heard = len(coordinator.announces)
    async with asyncio.timeout(30):
        while True:  # transient chunks are lost with a queue: a silo then requests the blob again
            await coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(20))
            with contextlib.suppress(Missing):
                await silo.transport.blobs.get(digest, Deadline.after(20), 1.0)
                break
        item = work_item(
            silo.name, coordinator.transport.coordinator_id, stage=stage, blobs={digest: len(data)}, seconds=20
        )
        answer = await coordinator.transport.request(item, {}, Deadline.after(20))
        assert isinstance(answer, Done)
        assert await coordinator.transport.results.get(digest, Deadline.after(10)) == data
        await eventually(lambda: len(coordinator.announces) > heard)


async def test_both_sides_recover_from_a_killed_broker(mortal: PrivateBroker) -> None:
    async with both(mortal.url, "mortal") as (silo, coordinator):
        await all_is_well(silo, coordinator, 1)
        await asyncio.to_thread(mortal.kill)
        await asyncio.to_thread(mortal.start)
        await all_is_well(silo, coordinator, 2)


async def test_work_survives_a_killed_broker(mortal: PrivateBroker) -> None:
    """Check that the silo's current work is answered; its handler gets the same item again, and may recognise it."""
    async with both(mortal.url, "mortal") as (silo, coordinator):
        release = silo.gated()
        request = asyncio.create_task(coordinator.ask("ewr", seconds=60))
        await eventually(lambda: len(silo.items) == 1)
        await asyncio.to_thread(mortal.kill)
        release.set()  # the reply is sent while the broker is down
        await asyncio.to_thread(mortal.start)
        assert await request == b"ok"


async def test_queued_work_survives_a_killed_broker(mortal: PrivateBroker) -> None:
    async with coordinator_transport(mortal.url, "mortal") as coordinator:
        async with silo_transport(mortal.url, "mortal"):
            pass  # its queue remains
        request = asyncio.create_task(coordinator.ask("ewr", seconds=60))
        async with queue_admin(mortal.url) as look:
            await eventually(lambda: look.holds(work_queue("mortal", "ewr").name, 1))
        await asyncio.to_thread(mortal.kill)
        await asyncio.to_thread(mortal.start)
        async with silo_transport(mortal.url, "mortal"):
            assert await request == b"ok"


async def test_request_waits_for_a_broker_that_is_down(mortal: PrivateBroker) -> None:
    async with both(mortal.url, "mortal") as (_, coordinator):
        await asyncio.to_thread(mortal.kill)
        request = asyncio.create_task(coordinator.ask("ewr", seconds=60))
        await asyncio.to_thread(mortal.start)
        assert await request == b"ok"


async def test_transports_close_without_a_broker(mortal: PrivateBroker) -> None:
    silo, coordinator = EchoSilo(mortal.url, "mortal"), RecordingCoordinator(mortal.url, "mortal")
    await silo.transport.open(Deadline.after(20))
    await coordinator.transport.open(Deadline.after(20))
    await asyncio.to_thread(mortal.kill)
    try:
        async with asyncio.timeout(8):
            await coordinator.transport.end_session("ewr", "s1")
        async with asyncio.timeout(6):
            await coordinator.transport.close()
            await silo.transport.close()
    finally:
        await asyncio.to_thread(mortal.start)


@pytest.mark.parametrize("round", [1, *(pytest.param(number, marks=pytest.mark.whole) for number in (2, 3))])
async def test_queue_without_a_leader_is_recreated(
    mortal: PrivateBroker, cohort: str, monkeypatch: pytest.MonkeyPatch, round: int
) -> None:
    """Test the case of ``mortal``: this silo's queue and the archive are so young that they may lose their leaders."""
    monkeypatch.setattr(connection, "LEADERLESS_SECONDS", 2.0)
    async with both(mortal.url, cohort) as (silo, coordinator):
        await asyncio.to_thread(mortal.kill)
        await asyncio.to_thread(mortal.start)
        for end in (silo.transport, coordinator.transport):
            await eventually(lambda link=end._control: link._connection is not None and link._connection.alive, 40)
        await all_is_well(silo, coordinator, 1)
        await silo.transport.drain()
        item = work_item("ewr", coordinator.transport.coordinator_id, stage=2, seconds=1)
        assert await coordinator.transport.request(item, {}, Deadline.after(1)) == Dead("ewr", "s1", 2, "expired")


async def test_both_sides_recover_from_cut_connections(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, both(proxy.url, cohort) as (silo, coordinator):
        for stage in range(3):
            await all_is_well(silo, coordinator, stage)
            proxy.cut()
        await all_is_well(silo, coordinator, 3)


async def test_blob_transfer_survives_cut_connections(broker: PrivateBroker, cohort: str) -> None:
    """Lose the silo's chunks with its connection's queue; the sender continues at its position."""
    data = secrets.token_bytes(48 * 2**20)
    digest = digest_of(data)
    async with Proxy(broker.url) as proxy, both(proxy.url, cohort) as (silo, coordinator):
        getting = asyncio.create_task(silo.transport.blobs.get(digest, Deadline.after(30), 1.0))
        sending = asyncio.create_task(
            coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(30))
        )
        await eventually(lambda: silo.transport.blobs.pending_bytes > 0)
        proxy.cut()
        await sending
        with contextlib.suppress(Missing):
            assert await getting == data
        await silo.transport._bulk.ready(Deadline.after(20))
        await coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(30))
        assert await silo.transport.blobs.get(digest, Deadline.after(30), 20) == data


async def test_both_sides_recover_from_an_unreachable_broker(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, both(proxy.url, cohort) as (silo, coordinator):
        await proxy.refuse()
        with pytest.raises(BrokerLost, match=r"no connection with the broker at 127\.0\.0\.1") as caught:
            await coordinator.transport.send_blob("d", b"x", silo=None, deadline=Deadline.after(0.4))
        assert "reconnection is automatic" in caught.value.hint
        request = asyncio.create_task(coordinator.ask("ewr", seconds=30))
        await proxy.accept()
        assert await request == b"ok"
        await all_is_well(silo, coordinator, 1)


async def test_silent_network_is_detected(broker: PrivateBroker, cohort: str) -> None:
    """Rely on AMQP heartbeats: no connection is refused or reset, and no byte arrives."""
    async with Proxy(broker.url + "?heartbeat=1") as proxy, both(proxy.url, cohort) as (silo, coordinator):
        lines = [coordinator.transport._control._connection, silo.transport._control._connection]
        proxy.stall()
        await eventually(lambda: all(line is not None and not line.alive for line in lines), 20)
        proxy.flow()
        await all_is_well(silo, coordinator, 1)


Blow = Callable[[str, EchoSilo, RecordingCoordinator], Awaitable[None]]


async def _silos_channel(_: str, silo: EchoSilo, __: RecordingCoordinator) -> None:
    """Acknowledge an unknown delivery: the broker closes the channel (406)."""
    consumer = silo.transport._consumer
    assert consumer is not None
    await consumer._channel.basic_ack(4711)


async def _coordinators_channel(_: str, __: EchoSilo, coordinator: RecordingCoordinator) -> None:
    """Publish to an unknown exchange: the broker closes the channel (404)."""
    line = coordinator.transport._control._connection
    assert line is not None
    assert line._publisher is not None
    with pytest.raises(aiormq.exceptions.ChannelNotFoundEntity):
        await line._publisher._amqp.basic_publish(b"", exchange="nosuch")


def _deletes(queue: Callable[[str, RecordingCoordinator], str]) -> Blow:
    async def blow(url: str, silo: EchoSilo, coordinator: RecordingCoordinator) -> None:
        async with queue_admin(url) as look:
            await look.delete(queue(silo.transport._cohort, coordinator))

    return blow


@pytest.mark.parametrize(
    "blow",
    [
        pytest.param(_silos_channel, id="silo's channel"),
        pytest.param(_coordinators_channel, id="coordinator's channel"),
        pytest.param(_deletes(lambda cohort, _: work_queue(cohort, "ewr").name), id="work queue"),
        pytest.param(_deletes(lambda _, end: callback_queue(end.transport.coordinator_id).name), id="callback queue"),
        pytest.param(_deletes(lambda _, end: results_queue(end.transport.coordinator_id).name), id="results queue"),
    ],
)
async def test_both_sides_recover_from_closed_channels_and_deleted_queues(
    broker: PrivateBroker, cohort: str, blow: Blow
) -> None:
    async with both(broker.url, cohort) as (silo, coordinator):
        links = [
            silo.transport._control,
            silo.transport._bulk,
            coordinator.transport._control,
            coordinator.transport._bulk,
        ]
        before = [link._connection for link in links]
        await blow(broker.url, silo, coordinator)
        await eventually(lambda: any(line is not None and not line.alive for line in before))
        await eventually(lambda: all(link._connection is not None and link._connection.alive for link in links))
        await all_is_well(silo, coordinator, 1)


async def test_refused_login_is_tried_again_with_its_own_delays(
    broker: PrivateBroker, cohort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Change the password of a silo that is connected, cut it off, and change the password back."""
    refusals: list[float] = []

    def recorded() -> Iterator[float]:
        while True:
            refusals.append(0.05)
            yield 0.05

    monkeypatch.setattr(reconnecting, "refusal_delays", recorded)
    user, password = f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    broker.ctl("add_user", user, password)
    broker.ctl("set_permissions", user, ".*", ".*", ".*")
    try:
        async with (
            Proxy(f"amqp://{user}:{password}@127.0.0.1:{broker.port}/") as proxy,
            silo_transport(proxy.url, cohort) as silo,
            coordinator_transport(broker.url, cohort) as coordinator,
        ):
            assert await coordinator.ask("ewr", 1) == b"ok"
            await asyncio.to_thread(broker.ctl, "change_password", user, "another")
            proxy.cut()
            await eventually(lambda: len(refusals) > 4)
            assert "refused the login" in silo.transport._control._reason
            await asyncio.to_thread(broker.ctl, "change_password", user, password)
            assert await coordinator.ask("ewr", 2) == b"ok"
    finally:
        broker.ctl("delete_user", user)


async def test_disconnected_silo_regains_its_name(broker: PrivateBroker, cohort: str) -> None:
    """Another silo may take the name in the interval; the first one then waits for its release."""
    async with (
        Proxy(broker.url) as proxy,
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(proxy.url, cohort) as first,
    ):
        await proxy.refuse()
        async with silo_transport(broker.url, cohort) as second:
            await proxy.accept()
            assert await coordinator.ask("ewr", 1) == b"ok"
            assert (len(first.items), len(second.items)) == (0, 1)
        assert await coordinator.ask("ewr", 2) == b"ok"
        assert (len(first.items), len(second.items)) == (1, 1)


@asynccontextmanager
async def lock(url: str, cohort: str) -> AsyncIterator[None]:
    """Hold the name of the silo ewr, as its lost connection does until the broker notices the loss."""
    async with await aio_pika.connect(url) as other, other.channel() as channel:
        await channel.declare_queue(mailbox(cohort, "ewr").name, exclusive=True)
        yield


async def test_own_lost_connection_is_not_taken_for_another_silo(
    broker: PrivateBroker, cohort: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, reconnecting.__name__)
    async with (
        Proxy(broker.url) as proxy,
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(proxy.url, cohort) as silo,
    ):
        assert await coordinator.ask("ewr", 1) == b"ok"
        await proxy.refuse()
        async with lock(broker.url, cohort):
            await proxy.accept()
            await eventually(lambda: messages(caplog).count("lock_lingers") > 2, 60)
            with pytest.raises(BrokerLost) as caught:
                await silo.transport._control.ready(Deadline.after(0.01))
            assert "already in cohort" not in str(caught.value)
        assert await coordinator.ask("ewr", 2) == b"ok"
    shown = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert not any("already in cohort" in record.getMessage() for record in shown)


async def test_another_silo_is_named_after_four_heartbeats(
    broker: PrivateBroker, cohort: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, reconnecting.__name__)
    async with Proxy(f"{broker.url}?heartbeat=1") as proxy, silo_transport(proxy.url, cohort):
        await proxy.refuse()
        async with lock(broker.url, cohort):
            await proxy.accept()
            await eventually(lambda: "already in cohort" in caplog.text, 60)


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


def test_delays_double_with_jitter_up_to_ten_seconds() -> None:
    pauses = delays()
    first = [next(pauses) for _ in range(12)]
    assert 0.0 <= first[0] <= 0.1
    assert all(0.05 * 2**at <= pause <= 0.1 * 2**at for at, pause in enumerate(first[1:7], 1))
    assert all(5.0 <= pause <= 10.0 for pause in first[8:])
    assert len(set(first[8:])) > 1
