"""A second process of one silo stands by, and takes the first one's place and its work within seconds."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from fedbroker.deadline import Deadline
from fedbroker.errors import CohortError
from fedbroker.testing import SiloProcess
from tests.support.ends import until
from tests.support.gated import gated_source, go, reads
from tests.support.worker import ROWS, client_of, echo, settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture
def pair(broker, cohort, tmp_path, monkeypatch):
    """Two processes of one silo with the same data, the second one standing by; and the first one's settings."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    sources = {"rows": {"query": ROWS}, "waiting": gated_source(tmp_path, waits=True)}
    processes = []
    for name, standby in (("first", False), ("second", True)):
        directory = tmp_path / name
        directory.mkdir()
        own = settings(directory, broker.url, cohort, sources, standby=standby)
        processes.append(SiloProcess(directory))
    yield own, processes
    for process in processes:
        process.kill()


def in_log(process: SiloProcess, words: str) -> bool:
    return process.log.exists() and words in process.log.read_text()


async def start(process: SiloProcess) -> None:
    process.start()
    await asyncio.to_thread(process.wait_ready, Deadline.after(30))


async def test_the_one_that_stands_by_takes_over_with_the_work_in_hand(pair, tmp_path):
    own, (first, second) = pair
    await start(first)
    second.start()
    await until(lambda: in_log(second, "standing by"), 30)
    async with client_of(own) as client:
        asking = asyncio.create_task(client.outputs(client.item(echo("waiting"), seconds=60)))
        await until(lambda: reads(first.directory) == 1)
        with pytest.raises(CohortError, match="not ready"):
            await asyncio.to_thread(second.wait_ready, Deadline.after(0))
        go(second.directory)
        first.kill()
        killed = time.monotonic()
        assert len(await asking) == 1
        assert time.monotonic() - killed < 5.0
        assert reads(second.directory) == 1
        await client.check()
        assert len({announce.incarnation for announce in client.coordinator.announces}) == 2


async def test_who_stands_by_ends_at_once_when_told_to(pair):
    _, (first, second) = pair
    await start(first)
    second.start()
    await until(lambda: in_log(second, "standing by"), 30)
    assert second.stop() == 0


async def test_without_standby_the_second_is_refused(pair):
    _, (first, second) = pair
    await start(first)
    text = (second.directory / "silo.toml").read_text().replace("standby = true", "standby = false")
    (second.directory / "silo.toml").write_text(text)
    second.start()
    with pytest.raises(CohortError, match="FB3002"):
        await asyncio.to_thread(second.wait_ready, Deadline.after(30))
