"""A curious coordinator, or a reader of the broker's messages, tries to learn a silo's data from its errors.

It requests columns in wrong dtypes, and waits for damaged files, unreachable databases and wrong cells. Of a failure
only a sentence from a closed list may leave, with the names of the source and of an announced column, and an id. Cells,
names of columns that are not offered, file names, directories, SQL, settings, users, passwords, ids of spreadsheets and
messages of exceptions are in the silo's own log, under that id, and nowhere else: not in replies, announcements,
notices, dead letters, metrics or traces.

Every source in ``tests/support/marked_sources.py`` is full of marks. A real silo, in a process of its own, reads it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.service import SiloService
from fedbroker_worker.sources import protocol

from examples.sheets.server import SheetsServer
from fedbroker.broker import PrivateBroker
from fedbroker.broker.setup import free_ports
from fedbroker.errors import FedbrokerError
from fedbroker.transport import topology
from fedbroker.wire.messages import Compute, Data, Failed
from tests.support import marked_sources
from tests.support.marked_sources import MARK, NUMBER, Case
from tests.support.postgres import postgres
from tests.support.spy import MessageCopy, contains_mark, message_spy
from tests.support.trace_collector import TraceCollector, trace_collector
from tests.support.transports import eventually, queue_admin
from tests.support.worker import SILO, echo_ops, work_client, write_settings

ROOT = Path(__file__).parents[2]
SEE = re.compile(r"detail in the silo's log under id ([0-9a-f]{8})$")
FINE = {"query": "select 1.5::double as x"}


def duckdb(at: Path) -> Iterator[list[Case]]:
    """Yield cases of files and a database, read by duckdb."""
    yield marked_sources.duckdb_cases(at)


def sqlite(at: Path) -> Iterator[list[Case]]:
    """Yield cases of the source ``sql`` over SQLite."""
    yield marked_sources.sqlite_cases(at)


def postgresql(at: Path) -> Iterator[list[Case]]:
    """Yield cases of the source ``sql`` over PostgreSQL."""
    with postgres() as url:
        yield marked_sources.postgres_cases(url)


def sheets(at: Path) -> Iterator[list[Case]]:
    """Yield cases of spreadsheets."""
    with SheetsServer(key_size=1024) as server, SheetsServer(key_size=1024) as away:
        yield marked_sources.sheets_cases(at, server, away)


def python(at: Path) -> Iterator[list[Case]]:
    """Yield cases of Python functions."""
    yield marked_sources.python_cases(at)


def installed(at: Path) -> Iterator[list[Case]]:
    """Yield cases of another package's kind of source."""
    yield marked_sources.installed_cases(at)


KINDS = {"duckdb": [duckdb], "sql": [sqlite, postgresql], "sheets": [sheets], "python": [python]}


def test_every_kind_of_source_is_tried():
    assert KINDS.keys() == protocol._OWN.keys()


@dataclass
class Outside:
    """All data that leave a silo, and its own log.

    Attributes:
        copies: of messages.
        collector: of traces.
        metrics: the address.
        log: of the silo.
    """

    copies: list[MessageCopy]
    collector: TraceCollector
    metrics: str
    log: Path

    def details(self) -> dict[str, str]:
        """Return the failure details in the silo's log, by id."""
        events = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return {event["id"]: event["detail"] for event in events if event["event"] == "failure_detail"}

    def leaks(self, scraped: str, marks: set[str]) -> list[str]:
        """Return a description of every message, metric or trace that holds a mark."""
        found = [f"{one.exchange} {one.key}: {one.everything!r}" for one in self.copies]
        leaving = [one.everything for one in self.copies] + [scraped.encode()]
        leaving += [repr(span).encode() for span in self.collector.spans]
        found += [scraped, *map(repr, self.collector.spans)]
        return [
            text for text, data in zip(found, leaving, strict=True) if any(contains_mark(data, mark) for mark in marks)
        ]


@contextmanager
def running(config: Path, collector: TraceCollector) -> Iterator[subprocess.Popen[bytes]]:
    """Run the silo of these settings in a process of its own that exports traces."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("FEDBROKER_", "OTEL_"))}
    path = os.pathsep.join(map(str, (ROOT, ROOT / "workers", config.parent)))
    variables = ours | {"PYTHONPATH": path, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with (config.parent / "log").open("wb") as log:
        command = [sys.executable, "-m", "fedbroker_worker", "run", "--config", config, "--ready-file", "ready"]
        process = subprocess.Popen(command, env=variables, cwd=config.parent, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def outside(config: Path, url: str, cohort: str, metrics: str) -> AsyncIterator[Outside]:
    """Run a silo within the block; yield everything that leaves it."""
    with trace_collector() as collector:
        async with message_spy(url, cohort, SILO) as copies:
            with running(config, collector) as process:
                log = config.parent / "log"
                ready = config.parent / "ready"
                await eventually(lambda: ready.exists() or process.poll() is not None, 60)
                assert process.poll() is None, log.read_text()
                yield Outside(copies, collector, metrics, log)
                process.terminate()
                await eventually(lambda: process.poll() is not None, 30)
            await eventually(
                lambda: any(one.exchange == topology.LOBBY.name and b"leave" in one.body for one in copies)
            )


async def scrape(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as got:
            return str(got.read().decode())

    return await asyncio.to_thread(get)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", [*(one for several in KINDS.values() for one in several), installed])
async def test_no_data_leave_a_silo_when_reading_or_converting_fails(
    broker: PrivateBroker, cohort: str, tmp_path: Path, kind: Callable[[Path], Iterator[list[Case]]]
) -> None:
    at = tmp_path / f"{MARK}_directory"
    at.mkdir()
    sources = contextmanager(kind)(at)
    port = free_ports(1)[0]
    with sources as cases:
        tables = {case.source: case.options for case in cases} | {"fine": FINE}
        config = write_settings(at, broker.url, cohort, tables, metrics=f"127.0.0.1:{port}")
        metrics = f"http://127.0.0.1:{port}/metrics"
        replies: list[tuple[Case, Failed]] = []
        async with outside(config, broker.url, cohort, metrics) as leaving, work_client(load(config, {})) as client:
            for case in cases:
                await asyncio.to_thread(case.spoil)
                program = [Data(1, case.source, tuple(case.asked), scalar=case.scalar), Compute(1)]
                reply = await client.send(client.item(program, clients=case.clients))
                assert isinstance(reply, Failed), (case, reply)
                replies.append((case, reply))
            assert len(await client.outputs(client.item(echo_ops("fine", marked_sources.X)))) == 1
            await dead_letter(broker.url, cohort, leaving)
            scraped = await scrape(metrics)
    assert f'outcome="data",silo="{SILO}"}} {float(len(cases))}' in scraped
    assert {one.exchange for one in leaving.copies} >= {"fedbroker.lobby", "fedbroker.reply", "fedbroker.dead"}
    assert len([span for span in leaving.collector.spans if span.failed]) >= len(cases)
    assert leaving.leaks(scraped, {MARK, NUMBER} | {case.tells for case in cases if case.tells}) == []
    details = leaving.details()
    if kind is installed:  # also when counting and closing fail
        assert f"{MARK}_count" in leaving.log.read_text()
        assert f"{MARK}_close" in leaving.log.read_text()
    assert [wrong for case, reply in replies if (wrong := why_wrong(case, reply, details))] == []


async def dead_letter(url: str, cohort: str, leaving: Outside) -> None:
    """Make the silo reject a message that is not a work item."""
    async with queue_admin(url) as anybody:
        await anybody.publish(topology.WORK.name, f"{cohort}.{SILO}.key", b"no work")
    await eventually(lambda: any(one.exchange == topology.DEAD.name for one in leaving.copies))


def why_wrong(case: Case, reply: Failed, details: dict[str, str]) -> str:
    """Return why the reply or the log is wrong; empty if both are right."""
    shown = SEE.search(reply.hint)
    if reply.error_type != "data" or case.problem.sentence.split("{")[0] not in reply.cause:
        return f"{case.source}: {reply} instead of {case.problem}; {details.get(shown[1] if shown else '')}"
    if shown is None or shown[1] not in details:
        return f"{case.source}: no detail for {reply}"
    return "" if case.tells in details[shown[1]] else f"{case.source}: the detail is {details[shown[1]]!r}"


CLOSED: dict[str, dict[str, object]] = {
    "no file": {"file": f"{MARK}.csv"},
    "no table": {"query": f"from {MARK}_table"},
    "no SQL": {"query": f"select 1 {MARK} {MARK}"},
    "no counterpart": {"query": f"select {{'{MARK}_field': 1}} as x"},
    "no database": {"query": "from t", "database": f"{MARK}.duckdb"},
    "no size": {"query": "select 1 as x", "memory_limit": f"{MARK}_bytes"},
    "no key": {"query": f"select 1 as x, null as {MARK}_ward", "clients": f"{MARK}_ward"},
    "no SQLite": {"source": "sql", "url": f"sqlite:///{MARK}.db", "query": "select 1 as x"},
    "no such dialect": {"source": "sql", "url": f"{MARK}://u:p@host/db", "query": "select 1 as x"},
    "no rows": {"source": "sql", "url": "sqlite://", "query": f"select null as {MARK}_x"},
    "no account": {"source": "sheets", "spreadsheet": f"{MARK}-key", "service_account": f"{MARK}.json"},
    "no module": {"source": "python", "callable": f"{MARK}_nowhere:rows"},
    "no function": {"source": "python", "callable": f"json:{MARK}_rows"},
}


async def test_failed_open_of_a_source_is_shown_only_at_the_silo(
    broker: PrivateBroker, cohort: str, tmp_path: Path
) -> None:
    at = tmp_path / f"{MARK}_directory"
    at.mkdir()
    async with message_spy(broker.url, cohort, SILO) as copies:
        for name, options in CLOSED.items():
            config = write_settings(at, broker.url, cohort, {"rows": options})
            with pytest.raises(FedbrokerError) as caught:
                await SiloService(load(config, {})).open()
            assert MARK in str(caught.value), name
        async with queue_admin(broker.url) as anybody:  # this message arrives after all that were sent before
            await anybody.publish(topology.DEAD.name, f"{cohort}.last", b"")
        await eventually(lambda: any(one.key == f"{cohort}.last" for one in copies))
    # Messages of other cohorts may still arrive: other tests use the broker as well.
    assert [one.key for one in copies if cohort in one.key] == [f"{cohort}.last"]
    assert not any(contains_mark(one.body + one.properties.encode(), MARK) for one in copies)
