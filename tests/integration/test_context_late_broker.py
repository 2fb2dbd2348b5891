"""A program that starts before its broker waits for up to ``Timeouts(join=)``, and then names the broker."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.errors import BrokerRefused, BrokerUnreachable, CohortTimeout
from fedbroker.testing import local_cohort
from tests.support.certificates import self_signed
from tests.support.computations import sum_numbers
from tests.support.context_settings import context_settings
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(600)

LONG = 120.0
"""Seconds of ``Timeouts(join=)``: only a wait of its whole length comes near."""
NOBODY = "amqp://me:secret@127.0.0.1:1/"
NUMBERS = {"numbers": {"source": "duckdb", "query": "select i::float as x from range(10) t(i)"}}


def invoke(url: str, **settings: object) -> object:
    with fedbroker.create_sync_execution_context(
        url, **context_settings(**{"cohort": "nobody", "min_silos": 1, **settings})
    ) as context:
        return sum_numbers(context)


def fails(url: str, kind: type[Exception], **settings: object) -> tuple[Exception, float]:
    """Return the error of an invocation in a new context, and its duration in seconds."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        invoke(url, **settings)
    assert "secret" not in str(caught.value)
    return caught.value, time.monotonic() - started


@pytest.fixture
def waits(caplog: pytest.LogCaptureFixture) -> Callable[[], object]:
    """Return a function that blocks until a program has logged that it waits for a broker."""
    caplog.set_level(logging.WARNING, "fedbroker.transport.amqp.reconnecting")
    return lambda: wait_until(lambda: "broker_not_connected" in caplog.text, 60)


def test_program_connects_when_its_broker_starts(tmp_path, cohort, waits):
    node = PrivateBroker(directory=tmp_path / "node")
    with node:
        url = node.url
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(invoke, url, cohort=cohort, join=LONG, retries=0)
        waits()
        assert not result.done()
        with node, local_cohort(1, sources=NUMBERS, cohort=cohort, broker=url):
            assert node.url == url
            assert result.result(60) == 45.0


async def test_program_waits_while_a_listener_closes_each_connection(broker, cohort, waits):
    """Accept and close connections, as a container's port does before its service listens."""
    target = broker.url
    port, up = target.rpartition(":")[2].rstrip("/"), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not up.is_set():
            writer.close()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", int(port))
        await asyncio.gather(_copy(reader, there), _copy(there_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    through = target.replace(f":{port}/", f":{server.sockets[0].getsockname()[1]}/")
    # The cohort is empty, so the program finally fails for that reason.
    failing = asyncio.create_task(asyncio.to_thread(fails, through, CohortTimeout, join=6.0, cohort=cohort))
    await asyncio.to_thread(waits)
    up.set()
    await failing
    server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


def test_join_timeout_error_names_the_broker_and_the_time():
    error, seconds = fails(NOBODY, BrokerUnreachable, join=2.0, retries=0)
    assert re.search(r"within 2[0-9.]* s: no server is listening at amqp://me@127\.0\.0\.1:1/", str(error))
    assert 1.9 < seconds < 20


def test_retries_share_one_join_timeout_and_the_error_is_retryable():
    events: list[str] = []
    settings = {"join": 1.0, "retries": 2, "on_event": lambda event: events.append(event.name)}
    error, seconds = fails(NOBODY, BrokerUnreachable, **settings)
    assert events.count("invocation_retried") == 2
    assert re.search(r"within [1-9][0-9.]* s: no server is listening at amqp://me@127\.0\.0\.1:1/", str(error))
    assert seconds < 20  # one join timeout, not three
    assert error.retryable


def test_total_timeout_ends_the_wait():
    _, seconds = fails(NOBODY, BrokerUnreachable, join=LONG, total=2.0)
    assert seconds < LONG / 2


def test_refused_login_fails_immediately(broker):
    password = broker.url.split(":")[2].split("@")[0]
    for url in (broker.url.replace(password, "secret"), broker.url + "nowhere"):
        _, seconds = fails(url, BrokerRefused, join=LONG)
        assert seconds < LONG / 2


def test_port_without_tls_fails_immediately(broker):
    error, seconds = fails(broker.url.replace("amqp://", "amqps://"), BrokerUnreachable, join=LONG)
    assert "no TLS connection" in str(error)
    assert seconds < LONG / 2


async def test_untrusted_certificate_fails_immediately(tmp_path: Path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path, days=9))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    url = f"amqps://me:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    error, seconds = await asyncio.to_thread(fails, url, BrokerUnreachable, join=LONG)
    assert "is not trusted" in str(error)
    assert seconds < LONG / 2
    server.close()
