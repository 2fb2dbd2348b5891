"""Measure the board: from an event to a browser, its processor time with a thousand silos, and its effect on rounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aio_pika

from benchmarks._processes import Group, by_turns
from benchmarks._report import Judged, Report, Row
from fedbroker.broker import PrivateBroker
from fedbroker.testing import local_cohort
from fedbroker.transport.coordinator.events import EventPublisher
from fedbroker.transport.topology import LOBBY, coordinator_id_of, silo_key
from fedbroker.wire.codec import encode
from fedbroker.wire.messages import Announce, Column, Source

MANY = 1000
HEARTBEAT = 5.0
SESSION_SECONDS = 10.0
"""Seconds of a session with one stage and a reply of each silo, in the measurement of processor time."""
SETTLE_SECONDS = 5.0
COLUMNS = ("median ms", "p90 ms", "longest ms")


@contextlib.contextmanager
def board(url: str, *cohorts: str) -> Generator[tuple[subprocess.Popen[str], int]]:
    """Run a board; yield its process and its port."""
    chosen = [word for cohort in cohorts for word in ("--cohort", cohort)]
    command = [sys.executable, "-m", "fedbroker.cli", "board", "serve", "--json", "--listen", "127.0.0.1:0", *chosen]
    process = subprocess.Popen(command, env={**os.environ, "FEDBROKER_URL": url}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, urlsplit(json.loads(process.stdout.readline())["url"]).port or 0
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def watching(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """Open the stream of events, as a browser does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    writer.write(f"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    try:
        await reader.readuntil(b"event: state")
        yield reader
    finally:
        writer.close()


@dataclass
class Found:
    """Milliseconds from events to a client, and milliseconds of processor time a second."""

    delays: list[float] = field(default_factory=list)
    processor: float = 0.0
    bytes_a_second: float = 0.0


async def delays(url: str, events: int, found: Found) -> None:
    """Publish events at random times, and record when each arrives at a client."""
    publisher = EventPublisher(url, "one")
    publisher.start(coordinator_id_of("one", "c1"))
    with board(url, "one") as (_, port):
        async with watching(port) as reader:
            for number in range(events + 1):
                await asyncio.sleep(0.05 + 0.2 * (number * 0.618 % 1))  # at any time between two messages
                start = time.perf_counter()
                details = {"run": "r1", "round": number, "metrics": {"loss": number}}
                publisher.put({"name": "round_finished", "details": details})
                await reader.readuntil(f'"points":[[{number},'.encode())
                if number:  # the publisher connects with the first
                    found.delays.append((time.perf_counter() - start) * 1e3)
    await publisher.close()


async def many_silos(url: str, seconds: float, found: Found) -> None:
    """Announce a thousand silos, run sessions with all of them, and measure the board's processor time."""
    names = [f"silo-{number}" for number in range(MANY)]
    publisher = EventPublisher(url, "many")
    publisher.start(coordinator_id_of("many", "c1"))
    with board(url, "many") as (process, port):
        connection = await aio_pika.connect(url)
        async with connection, watching(port) as reader, asyncio.TaskGroup() as running:
            tasks = [
                running.create_task(announce(connection, names)),
                running.create_task(sessions(publisher, names)),
                running.create_task(drain(reader, found)),
            ]
            await asyncio.sleep(SETTLE_SECONDS + HEARTBEAT)
            group = Group([process.pid])
            before, read, start = group.seconds(), found.bytes_a_second, time.perf_counter()
            await asyncio.sleep(seconds)
            elapsed = time.perf_counter() - start
            found.processor = (group.seconds() - before) / elapsed * 1e3
            found.bytes_a_second = (found.bytes_a_second - read) / elapsed
            for task in tasks:
                task.cancel()
    await publisher.close()


async def announce(connection: aio_pika.abc.AbstractConnection, names: list[str]) -> None:
    """Announce each silo in each heartbeat."""
    channel = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
    source = Source(tuple(Column(f"column-{number}", "float32") for number in range(20)), 1000)
    bodies = [encode(Announce("many", name, "i1", HEARTBEAT, {"rows": source}, "0.1.0")) for name in names]
    start = time.monotonic()
    for number in range(1 << 40):
        await asyncio.sleep(max(0.0, start + number * HEARTBEAT / MANY - time.monotonic()))
        name = names[number % MANY]
        await channel.basic_publish(bodies[number % MANY], exchange=LOBBY.name, routing_key=silo_key("many", name))


async def sessions(publisher: EventPublisher, names: list[str]) -> None:
    """Publish the events of sessions, one after another, whose silos answer evenly over their time."""
    for number in range(1 << 40):
        session = f"s{number}"

        def put(name: str, silo: str = "", stage: int | None = None, session: str = session, **details: object) -> None:
            publisher.put({"name": name, "session": session, "stage": stage, "silo": silo, "details": details})

        put("session_started", members=names, computation="next_fn")
        put("stage_started", stage=0, silos=MANY, needed=MANY, seconds=60.0, masked=False)
        start = time.monotonic()
        for at, name in enumerate(names):
            await asyncio.sleep(max(0.0, start + at * SESSION_SECONDS / MANY - time.monotonic()))
            put("silo_answered", name, 0, seconds=1.0, queue=0.1, transfer=0.2, compute=0.7, bytes_in=9, bytes_out=9)
        put("stage_finished", stage=0, participants=MANY, seconds=SESSION_SECONDS)
        put("session_finished", seconds=SESSION_SECONDS, outcome="ok", code="", error="")


async def drain(reader: asyncio.StreamReader, found: Found) -> None:
    """Read all that comes, and count it."""
    while read := await reader.read(1 << 20):
        found.bytes_a_second += len(read)


@contextlib.contextmanager
def reading(port: int) -> Generator[None]:
    """Read the stream of events in a thread, as a browser does, until the block ends."""
    ended = threading.Event()

    async def read() -> None:
        async with watching(port) as reader:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await reader.read(1 << 20)

    thread = threading.Thread(target=lambda: asyncio.run(read()))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def rounds(url: str, turns: int) -> list[Row]:
    """Run small rounds by turns: without events, with events that no board reads, and with a board and its page."""
    import fedbroker
    from benchmarks._computations import invoke, total

    def context(cohort: str, *, events: bool) -> fedbroker.SyncBrokerContext:
        return fedbroker.create_sync_execution_context(
            url, cohort=cohort, min_silos=2, progress=False, options=fedbroker.Options(events=events)
        )

    with (
        local_cohort(2, cohort="seen", broker=url),
        local_cohort(2, cohort="unseen", broker=url),
        context("seen", events=False) as silent,
        context("seen", events=True) as seen,
        context("unseen", events=False) as bare,
        context("unseen", events=True) as unseen,
        board(url, "seen") as (process, port),
        reading(port),
    ):
        contexts = {"silent": silent, "seen": seen, "bare": bare, "unseen": unseen}
        calls = {name: lambda one=one: invoke(one, total, [1.0, 1.0]) for name, one in contexts.items()}
        by_turns(calls, 10)
        timed = by_turns(calls, turns, apart=[process.pid])
    rows: list[Row] = []
    for case, with_events, without in (
        ("a round with the board open", "seen", "silent"),
        ("a round without a board", "unseen", "bare"),
    ):
        ratio = timed[with_events].median / timed[without].median
        figures = (
            timed[with_events].median * 1e3,
            timed[with_events].ninth * 1e3,
            max(timed[with_events].seconds) * 1e3,
        )
        rows.append(Row(case, dict(zip(COLUMNS, figures, strict=True)), Judged(ratio, "≤", 1.01)))
        rows.append(Row("the same without events", {COLUMNS[0]: timed[without].median * 1e3}))
    return rows


def run(quick: bool) -> Report:
    """Measure all three at one private broker."""
    found = Found()
    with PrivateBroker() as node:
        asyncio.run(delays(node.url, 20 if quick else 60, found))
        asyncio.run(many_silos(node.url, 10.0 if quick else 20.0, found))
        times = rounds(node.url, 50 if quick else 200)
    ordered = sorted(found.delays)
    figures = (statistics.median(ordered), ordered[int(0.9 * len(ordered))], ordered[-1])
    return Report(
        "board",
        f"The board ({len(ordered)} events; {MANY:,} silos, with a heartbeat of {HEARTBEAT:g} s)",
        COLUMNS,
        [
            Row("an event to a client", dict(zip(COLUMNS, figures, strict=True)), Judged(ordered[-1], "≤", 200, "ms")),
            Row("the board's processor time a second", {}, Judged(found.processor, "≤", 50, "ms")),
            *times,
        ],
        (
            f"A session of {MANY:,} silos, which all answer within {SESSION_SECONDS:g} s, follows another, and one "
            f"client gets {found.bytes_a_second / 1000:.0f} kB/s. Rounds are small sums over 2 silos, by turns.",
        ),
    )
