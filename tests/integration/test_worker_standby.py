"""A standby process of a silo takes over the name and work of the first process within seconds."""

from __future__ import annotations

import asyncio
import os
import secrets
import time

import pytest
from fedbroker_worker.service import SiloService

from fedbroker.deadline import Deadline
from fedbroker.errors import CohortError, NameTaken
from fedbroker.runtime.protos import executor_pb2
from fedbroker.testing import SiloProcess
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Done, Need, Value
from tests.support.gated_source import gated_source, let_reads_return, read_count
from tests.support.transports import eventually, queue_admin
from tests.support.worker import ROWS, echo_ops, load_settings, work_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def pair(broker, cohort, tmp_path, monkeypatch):
    """Start two processes of one silo with the same data, the second one on standby; yield them and the settings."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    sources = {"rows": {"query": ROWS}, "waiting": gated_source(tmp_path, waits=True)}
    processes = []
    for name, standby in (("first", False), ("second", True)):
        directory = tmp_path / name
        directory.mkdir()
        own = load_settings(directory, broker.url, cohort, sources, standby=standby)
        processes.append(SiloProcess(directory))
    yield own, processes
    for process in processes:
        process.kill()


def in_log(process: SiloProcess, words: str) -> bool:
    return process.log.exists() and words in process.log.read_text()


async def start(process: SiloProcess) -> None:
    process.start()
    await asyncio.to_thread(process.wait_ready, Deadline.after(30))


@pytest.mark.alone
async def test_standby_takes_over_with_the_current_work(pair, tmp_path):
    own, (first, second) = pair
    await start(first)
    second.start()
    await eventually(lambda: in_log(second, "standby_started"), 30)
    async with work_client(own) as client:
        asking = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60)))
        await eventually(lambda: read_count(first.directory) == 1)
        with pytest.raises(CohortError, match="not ready"):
            await asyncio.to_thread(second.wait_ready, Deadline.after(0))
        let_reads_return(second.directory)
        first.kill()
        killed = time.monotonic()
        assert len(await asking) == 1
        assert time.monotonic() - killed < 5.0
        assert read_count(second.directory) == 1
        await client.check()
        assert len({announce.incarnation for announce in client.coordinator.announces}) == 2


async def test_standby_ends_immediately_on_a_signal(pair):
    _, (first, second) = pair
    await start(first)
    second.start()
    await eventually(lambda: in_log(second, "standby_started"), 30)
    assert second.stop() == 0


async def test_second_process_without_standby_is_refused(pair):
    _, (first, second) = pair
    await start(first)
    text = (second.directory / "silo.toml").read_text().replace("standby = true", "standby = false")
    (second.directory / "silo.toml").write_text(text)
    second.start()
    with pytest.raises(CohortError, match="FB3002"):
        await asyncio.to_thread(second.wait_ready, Deadline.after(30))


def large_value() -> bytes:
    """Return a value that is large enough to be sent as a blob."""
    value = executor_pb2.Value()
    value.array.dtype = 7  # DT_STRING
    value.array.shape.SetInParent()
    value.array.string_list.value.append(secrets.token_bytes(3_000_000))
    return bytes(value.SerializeToString())


@pytest.mark.alone
async def test_blobs_sent_to_the_first_process_are_requested_again_immediately(pair):
    own, (first, second) = pair
    await start(first)
    second.start()
    await eventually(lambda: in_log(second, "standby_started"), 30)
    async with work_client(own) as client:
        blob = large_value()
        digest, later = digest_of(blob), Deadline.after(60)
        item = client.item([Value(2, digest), *echo_ops("waiting")], fresh={digest: len(blob)}, seconds=60)
        asking = asyncio.create_task(client.send(item))
        await client.transport.send_blob(digest, blob, silo=None, deadline=later)
        await eventually(lambda: read_count(first.directory) == 1)
        let_reads_return(second.directory)
        first.kill()
        killed = time.monotonic()
        reply = await asking
        assert isinstance(reply, Need)
        assert reply.digests == (digest,)
        asking = asyncio.create_task(client.send(item))
        await client.transport.send_blob(digest, blob, silo="ewr", deadline=later)
        assert isinstance(await asking, Done)
        assert time.monotonic() - killed < 5.0


async def test_standby_waits_for_a_lingering_lock_of_the_bulk_connection(broker, cohort, tmp_path):
    """Simulate a silo whose machine lost power: its two connections do not end at the same moment."""
    own = load_settings(tmp_path, broker.url, cohort, standby=True)
    async with queue_admin(broker.url) as killed:
        await killed.declare(f"fedbroker.blobs.{cohort}.ewr", exclusive=True)
        with pytest.raises(NameTaken):
            await SiloService(load_settings(tmp_path, broker.url, cohort)).open()
        service = SiloService(own)
        opening = asyncio.create_task(service.open())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(opening), 4.0)  # longer than a refusal takes
    try:
        await asyncio.wait_for(opening, 10.0)
        async with work_client(own) as client:
            await client.check()
    finally:
        await service.close()
