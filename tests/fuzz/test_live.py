"""Thousands of malformed messages at a real silo and coordinator on a real broker: both continue, and do not grow."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Iterator

import aio_pika
import msgpack
import msgspec
import psutil
import pytest

import fedbroker
from fedbroker.testing import local_cohort
from fedbroker.wire import digest_of
from fedbroker.wire.messages import (
    Announce,
    Chunk,
    Compute,
    Data,
    Done,
    Drop,
    EndSession,
    Failed,
    Fetch,
    Leave,
    Need,
    Rejected,
    Struct,
    Value,
    WorkItem,
)
from tests.fuzz.mutation import blind, mutated, structured
from tests.fuzz.running import corpus
from tests.support import computations as c
from tests.support.context_settings import context_settings
from tests.support.message_bytes import message_body
from tests.support.transports import eventually, queue_admin

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MESSAGES = 3000
GROWTH_MIB = 64
READ_SECONDS = 120.0
BLOB = b"some bytes" * 100
SOURCE = {"source": "duckdb", "query": "select i::float as x from range(10) t(i)"}


def said(cohort: str, key: str) -> list[bytes]:
    """Return headers of messages that are meaningful here, in the name of a silo that does not exist."""
    digest = digest_of(BLOB)
    program = (Data(1, "numbers", (("x", "float32"),)), Value(2, digest), Struct(3, (("", 1),)), Compute(1), Drop((2,)))
    messages = [
        Announce(cohort, "mallory", "1", 5.0),
        Leave(cohort, "mallory", "1"),
        Rejected(cohort, "ewr", "1", "go away", (1.0, 2.0)),
        WorkItem("s", 0, "ewr", key, 1, program, {digest: len(BLOB)}, 1.0, 1.0, False),
        WorkItem("s", 1, "ewr", key, 1, (Compute(3),), {}, 1.0, 1.0, True),
        Done("s", 0, "mallory", "1", ((digest, len(BLOB)),), 0.1),
        Failed("s", 0, "mallory", "1", "lost", "gone"),
        Need("s", 0, "mallory", "1", (digest,)),
        Fetch("s", 0, "1"),
        EndSession("s"),
        Chunk(digest, len(BLOB), 0),
        Chunk(digest, 1 << 24, 0),
    ]
    return [
        msgpack.packb([msgspec.to_builtins(one), [len(BLOB)] if isinstance(one, Chunk) else []]) for one in messages
    ]


def garbage(cohort: str, key: str, seed: int) -> Iterator[bytes]:
    """Yield bodies without an end: a third random, two thirds damaged copies of valid ones."""
    rng = random.Random(seed)
    raw, headers = corpus("message"), [*said(cohort, key), *corpus("header")]
    while True:
        if rng.random() < 0.3:
            yield mutated(raw, rng, (blind,))
        else:
            yield message_body(mutated(headers, rng, (blind, structured, structured)), rng.choice((b"", BLOB)))


async def flood(url: str, cohort: str, key: str) -> None:
    """Publish to every queue that silo and coordinator read."""
    routes = [
        ("fedbroker.work", f"{cohort}.ewr.{key}"),
        ("fedbroker.mail", f"{cohort}.ewr"),
        ("fedbroker.blobs", f"{cohort}.ewr"),
        ("fedbroker.reply", f"{key}.s.0.mallory"),
        ("fedbroker.results", f"{key}.mallory"),
        ("fedbroker.lobby", f"{cohort}.mallory"),
    ]
    async with await aio_pika.connect(url) as connection, connection.channel(publisher_confirms=False) as channel:
        exchanges = {name: await channel.get_exchange(name, ensure=False) for name, _ in routes}
        bodies = garbage(cohort, key, seed=1)
        for number in range(MESSAGES):
            name, route = routes[number % len(routes)]
            await exchanges[name].publish(aio_pika.Message(next(bodies)), route)
    async with queue_admin(url) as look:  # the other queues are exclusive to their readers
        for queue in (f"fedbroker.work.{cohort}.ewr", f"fedbroker.callback.{key}", f"fedbroker.results.{key}"):
            await eventually(lambda queue=queue: look.holds(queue, 0), READ_SECONDS)


def resident(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 2**20


def test_thousands_of_malformed_messages_have_no_effect(broker, tmp_path):
    cohort = f"t{secrets.token_hex(6)}"
    settings = {"cohort": cohort, "min_silos": 1, "eligible": lambda silo: silo.name == "ewr", "retries": 0}
    with (
        local_cohort({"ewr": {"numbers": SOURCE}}, cohort=cohort, broker=broker.url, directory=tmp_path) as silos,
        fedbroker.create_sync_execution_context(broker.url, **context_settings(**settings)) as context,
    ):
        assert c.sum_numbers(context) == 45.0
        pids = (silos.silos["ewr"].pid, os.getpid())
        before = [resident(pid) for pid in pids]
        asyncio.run(flood(broker.url, cohort, context._coordinator._cohort._transport.coordinator_id))
        assert c.sum_numbers(context) == 45.0
        assert pids[0] == silos.silos["ewr"].pid
        assert psutil.pid_exists(pids[0])
        grown = [resident(pid) - was for pid, was in zip(pids, before, strict=True)]
        assert max(grown) < GROWTH_MIB, grown
