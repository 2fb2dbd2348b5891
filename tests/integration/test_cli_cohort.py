"""``fedbroker cohort`` as processes: present and departed silos are shown, without disturbing them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import aio_pika
import pytest

from fedbroker.deadline import Deadline
from fedbroker.transport import topology
from fedbroker.transport.coordinator.discovery import CONFIRM_TIMEOUT
from fedbroker.transport.observer import CohortObserver
from tests.support.transports import coordinator_transport, eventually, queue_admin, silo_transport
from tests.support.worker import SILO, load_settings, running_silo

SECONDS = 60


def environment(url):
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    return {**ours, "FEDBROKER_URL": url, "COLUMNS": "80", "TERM": "xterm"}


def command(*arguments):
    return [sys.executable, "-m", "fedbroker.cli", "cohort", *arguments]


@pytest.fixture
def run(broker):
    """Return ``await run("show", cohort)``: exit code, standard output and standard error."""

    async def run(*arguments):
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            env=environment(broker.url),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS):
            out, err = (stream.decode() for stream in await process.communicate())
        assert urlsplit(broker.url).password not in out + err
        return process.returncode, out, err

    return run


@asynccontextmanager
async def watching(url, *arguments, stdout=asyncio.subprocess.PIPE):
    process = await asyncio.create_subprocess_exec(
        *command("watch", *arguments), env=environment(url), stdin=asyncio.subprocess.DEVNULL, stdout=stdout
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line_of(process):
    async with asyncio.timeout(SECONDS):
        return json.loads(await process.stdout.readline())


async def ended(process):
    async with asyncio.timeout(SECONDS):
        return await process.wait()


async def test_show_lists_a_silo_and_its_data(broker, cohort, tmp_path, run):
    async with running_silo(load_settings(tmp_path, broker.url, cohort)) as (_service, _):
        _, out, _ = await run("show", cohort, "--json")
        (row,) = json.loads(out)
        assert (row["silo"], row["state"], row["in_flight"]) == (SILO, "present", 0)
        assert row["sources"]["rows"]["columns"] == {"x": "float32", "k": "int32"}
        code, out, _ = await run("show", cohort)
        assert code == 0
        heading, line = out.splitlines()
        assert "rows" in line
        assert len(heading) <= 80
        assert row["incarnation"] in line


async def test_list_discovers_cohorts(broker, cohort, run):
    other = f"{cohort}-b"
    async with (
        silo_transport(broker.url, cohort, "ewr"),
        silo_transport(broker.url, cohort, "jfk"),
        silo_transport(broker.url, other, "lga"),
    ):
        _, out, _ = await run("list", "--seconds", "1.5", "--json")
        found = {one["cohort"]: one["names"] for one in json.loads(out)}
        assert found[cohort] == ["ewr", "jfk"]
        assert found[other] == ["lga"]
        _, out, _ = await run("list", "--seconds", "1.5")
        assert any(cohort in line and "ewr, jfk" in line for line in out.splitlines())


async def test_observer_waits_for_an_announcement_that_another_reader_holds(broker, cohort):
    heard = []
    observer = CohortObserver(broker.url, cohort, heard.append)
    async with silo_transport(broker.url, cohort), await aio_pika.connect(broker.url) as connection:
        lobby = await (await connection.channel()).get_queue(topology.lobby_queue(cohort).name)
        taken = await lobby.get(timeout=10)
        opening = asyncio.create_task(observer.open(Deadline.after(10)))
        await asyncio.wait({opening}, timeout=CONFIRM_TIMEOUT / 2)
        await taken.reject()
        await opening
        await observer.close()
        assert {word.silo for word in heard} == {"ewr"}


async def test_show_does_not_disturb_silos_and_coordinators(broker, cohort, run):
    async with coordinator_transport(broker.url, cohort) as before, silo_transport(broker.url, cohort) as silo:
        await eventually(lambda: before.silos == {"ewr"})
        shown = await asyncio.gather(*(run("show", cohort, "--json") for _ in range(3)))
        assert [[row["silo"] for row in json.loads(out)] for _, out, _ in shown] == [["ewr"]] * 3
        assert not before.leaves
        async with coordinator_transport(broker.url, cohort) as after:
            assert after.silos == {"ewr"}
        announced = len(before.announces)
        await eventually(lambda: len(before.announces) > announced)
        assert await before.ask("ewr")
        assert silo.items


async def test_show_creates_no_queues_for_an_unknown_cohort(broker, cohort, run):
    code, out, err = await run("show", cohort)
    assert (code, out) == (4, "")
    assert err.startswith(f"error: [FB3000] cohort '{cohort}' has no silo; start silos")
    code, out, _ = await run("show", cohort, "--json")
    assert (code, json.loads(out)) == (4, [])
    async with queue_admin(broker.url) as at:
        assert not await at.has_queue(f"fedbroker.lobby.{cohort}")
    code, _, err = await run("show", "No Name")
    assert code == 2
    assert len(err.splitlines()) == 1
    code, out, _ = await run("list", "--seconds", "0.1", "--json")
    assert code == 0
    assert cohort not in out


async def test_watch_prints_each_change(broker, cohort):
    async with watching(broker.url, cohort, "--json") as process:
        async with silo_transport(broker.url, cohort) as silo:
            row = await line_of(process)
            assert (row["silo"], row["state"], row["incarnation"]) == ("ewr", "present", silo.incarnation)
        assert (await line_of(process))["state"] == "left"
        async with silo_transport(broker.url, cohort) as again:
            row = await line_of(process)
            assert (row["state"], row["incarnation"]) == ("present", again.incarnation)
            await again.transport._announcer.stop()  # a leave announcement
            assert (await line_of(process))["state"] == "left"
        process.send_signal(signal.SIGINT)
        assert await ended(process) == 0
        assert await process.stdout.read() == b""


async def test_watch_shows_a_table_on_a_terminal(broker, cohort):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    seen = bytearray()

    def shows(word):
        with suppress(BlockingIOError, OSError):
            seen.extend(os.read(ours, 65536))
        return word in seen

    try:
        async with silo_transport(broker.url, cohort), watching(broker.url, cohort, stdout=theirs) as process:
            await eventually(lambda: shows(b"present"), 30)
            assert b"ewr" in seen
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
    finally:
        os.close(ours)
        os.close(theirs)


async def test_watch_prints_readable_lines_without_a_terminal(broker, cohort):
    async with silo_transport(broker.url, cohort), watching(broker.url, cohort) as process:
        async with asyncio.timeout(SECONDS):
            line = (await process.stdout.readline()).decode()
        assert "ewr present" in line
        assert "0 in flight" in line
