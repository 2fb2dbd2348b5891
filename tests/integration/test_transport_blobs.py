"""Blob transfers: any size, in chunks, compressed or not, once for a whole cohort; lost, damaged and surplus chunks."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import zstandard

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, Missing, WireError
from fedbroker.transport.blobs.bulk import WINDOW
from fedbroker.wire import Limits, cut, digest_of, encode
from fedbroker.wire.coding import Compression
from fedbroker.wire.messages import Chunk, Done, WorkItem
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

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(scope="module")
def strict_broker() -> Iterator[PrivateBroker]:
    """Run a broker that refuses messages above 16 MiB, as RabbitMQ 4 does by default."""
    with PrivateBroker(extra_conf={"max_message_size": str(16 * MIB)}) as node:
        yield node


@asynccontextmanager
async def memory() -> AsyncIterator[list[int]]:
    """Measure the growth of this process within the block, in bytes (first element of the list)."""
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    before = resident()
    grown = [0]

    async def watch() -> None:
        while True:
            grown[0] = max(grown[0], resident() - before)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    try:
        yield grown
    finally:
        watching.cancel()
        await asyncio.wait([watching])


@pytest.mark.parametrize(
    "size", [16 * KIB + 1, MIB, MIB + 1, 5 * MIB + 7, 16 * MIB, 16 * MIB + 1], ids=lambda size: f"{size}"
)
async def test_blobs_are_transferred_in_both_directions(strict_broker: PrivateBroker, cohort: str, size: int) -> None:
    data = secrets.token_bytes(size)
    digest = digest_of(data)
    async with (
        silo_transport(strict_broker.url, cohort) as silo,
        coordinator_transport(strict_broker.url, cohort) as coordinator,
    ):
        await coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(20))
        item = work_item("ewr", coordinator.transport.coordinator_id, blobs={digest: size})
        done = await coordinator.transport.request(item, {}, Deadline.after(20))
        assert isinstance(done, Done)
        assert done.outputs == ((digest, size),)
        assert bytes(await coordinator.transport.results.get(digest, Deadline.after(5))) == data
        assert (silo.transport.blobs.pending_bytes, coordinator.transport.results.pending_bytes) == (0, 0)


async def test_64_mib_pass_a_broker_with_a_limit_of_16_mib(strict_broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(64 * MIB)
    digest = digest_of(data)
    async with (
        silo_transport(strict_broker.url, cohort),
        coordinator_transport(strict_broker.url, cohort) as coordinator,
    ):
        await coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(60))
        item = work_item("ewr", coordinator.transport.coordinator_id, blobs={digest: len(data)}, seconds=60)
        done = await coordinator.transport.request(item, {}, Deadline.after(60))
        assert isinstance(done, Done)
        assert await coordinator.transport.results.get(digest, Deadline.after(30)) == data


@pytest.mark.alone
async def test_512_mib_pass_in_bounded_memory(strict_broker: PrivateBroker, cohort: str) -> None:
    size = 512 * MIB
    data = bytearray(size)
    for at in range(0, size, MIB):
        data[at : at + 8] = at.to_bytes(8, "big")
    digest = digest_of(data)
    async with (
        silo_transport(strict_broker.url, cohort) as silo,
        coordinator_transport(strict_broker.url, cohort) as coordinator,
    ):
        async with memory() as grown:
            getting = asyncio.create_task(silo.transport.blobs.get(digest, Deadline.after(100), 20))
            await coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(100))
            content = await getting
        assert len(content) == size
        assert content[-MIB : -MIB + 8] == (size - MIB).to_bytes(8, "big")
        assert grown[0] < size + 256 * MIB  # the blob itself, once, and the bytes in transit on both sides


async def test_broadcast_is_published_once(broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(3 * MIB)
    digest = digest_of(data)
    names = ("ewr", "jfk", "lga")
    async with AsyncExitStack() as stack:
        look = await stack.enter_async_context(queue_admin(broker.url))
        silos = [await stack.enter_async_context(silo_transport(broker.url, cohort, name)) for name in names]
        coordinator = await stack.enter_async_context(coordinator_transport(broker.url, cohort))
        await look.declare(f"spy.{cohort}", ("fedbroker.blobs", cohort), durable=True)
        await coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(20))
        for silo in silos:
            assert await silo.transport.blobs.get(digest, Deadline.after(5)) == data
        await eventually(lambda: look.holds(f"spy.{cohort}", 3))
        await look.delete(f"spy.{cohort}")


async def test_blob_for_one_silo_reaches_only_that_silo(broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(MIB)
    digest = digest_of(data)
    async with (
        silo_transport(broker.url, cohort, "ewr") as silo,
        silo_transport(broker.url, cohort, "jfk") as other,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):
        await coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(20))
        assert await silo.transport.blobs.get(digest, Deadline.after(5)) == data
        await coordinator.transport.send_blob(digest_of(b"end"), b"end", silo="jfk", deadline=Deadline.after(5))
        assert await other.transport.blobs.get(digest_of(b"end"), Deadline.after(5)) == b"end"
        assert digest not in other.transport.blobs


async def test_silo_waits_for_blobs_that_follow_its_work(broker: PrivateBroker, cohort: str) -> None:
    blobs = {digest_of(data): data for data in (secrets.token_bytes(2 * MIB) for _ in range(5))}
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        item = work_item(
            "ewr", coordinator.transport.coordinator_id, blobs={digest: len(data) for digest, data in blobs.items()}
        )
        request = asyncio.create_task(coordinator.transport.request(item, {}, Deadline.after(20)))
        await eventually(lambda: len(silo.items) == 1)
        sending = (
            coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(20))
            for digest, data in blobs.items()
        )
        await asyncio.gather(*sending)
        assert isinstance(await request, Done)
        for digest, data in blobs.items():
            assert await coordinator.transport.results.get(digest, Deadline.after(5)) == data


@pytest.mark.alone
async def test_lost_chunk_is_detected_and_the_blob_can_be_sent_again(broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(3 * MIB)
    digest = digest_of(data)
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
    ):
        chunks = list(cut(digest, data, MIB))
        for chunk, view in (chunks[0], chunks[2]):
            await look.publish("fedbroker.blobs", f"{cohort}.ewr", encode(chunk, [view]))
        started = time.monotonic()
        with pytest.raises(Missing, match=r"nothing came for 0\.5 s") as caught:
            await silo.transport.blobs.get(digest, Deadline.after(20), 0.5)
        assert caught.value.digest == digest
        assert time.monotonic() - started < 2
        await coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(20))
        assert await silo.transport.blobs.get(digest, Deadline.after(5)) == data


async def test_invalid_chunks_are_dropped(broker: PrivateBroker, cohort: str) -> None:
    limits = Limits(max_blob=4 * MIB, max_pending_blobs=3, max_pending_bytes=9 * MIB)
    async with (
        silo_transport(broker.url, cohort, limits=limits) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
    ):
        wrong = [b"", b"junk", encode(work_item("ewr", "k")), encode(Chunk("0" * 32, 5, 0), [b"wrong"])]
        wrong += [encode(Chunk(f"{number:032}", 2**40, 0), [b"x" * MIB]) for number in range(3)]  # a terabyte
        wrong += [encode(Chunk(f"{number:032}", 4 * MIB, 0), [b"x" * MIB]) for number in range(10)]  # never complete
        for body in wrong:
            await look.publish("fedbroker.blobs", cohort, body)
        data = secrets.token_bytes(MIB)
        await coordinator.transport.send_blob(digest_of(data), data, silo=None, deadline=Deadline.after(5))
        assert await silo.transport.blobs.get(digest_of(data), Deadline.after(5)) == data
        assert silo.transport.blobs.pending_bytes == 8 * MIB


async def test_damaged_blob_is_detected_immediately(broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(2 * MIB)
    digest = digest_of(data)
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        getting = asyncio.create_task(silo.transport.blobs.get(digest, Deadline.after(30), 30))
        await asyncio.sleep(0)
        await coordinator.transport.send_blob(digest, data[::-1], silo=None, deadline=Deadline.after(5))
        with pytest.raises(Missing, match="damaged"):
            async with asyncio.timeout(5):
                await getting


async def test_oversized_blob_is_refused_before_it_is_sent(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort, limits=Limits(max_blob=MIB)) as coordinator:
        with pytest.raises(WireError, match=r"exceeds the limit .* whole value \(max_blob\)"):
            await coordinator.transport.send_blob("d", bytes(MIB + 1), silo=None, deadline=Deadline.after(5))


async def test_sending_stops_at_its_deadline(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, coordinator_transport(proxy.url, cohort) as coordinator:
        proxy.stall()
        with pytest.raises(BrokerLost):
            await coordinator.transport.send_blob("d", bytes(64 * MIB), silo=None, deadline=Deadline.after(0.5))
        proxy.flow()
        await coordinator.transport.send_blob("d", bytes(MIB), silo=None, deadline=Deadline.after(20))


async def test_sending_can_be_cancelled(broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(32 * MIB)
    digest = digest_of(data)
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        for turns in (0, 1, 2, 5, 20, 50):
            sending = asyncio.create_task(
                coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(20))
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if sending.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await sending
            else:
                await sending
        await coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(20))
        assert await silo.transport.blobs.get(digest, Deadline.after(10)) == data


async def test_equal_results_of_two_silos_are_one_blob(broker: PrivateBroker, cohort: str) -> None:
    data = secrets.token_bytes(2 * MIB)
    async with (
        silo_transport(broker.url, cohort, "ewr") as one,
        silo_transport(broker.url, cohort, "jfk") as other,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):

        def same(silo: EchoSilo) -> None:
            async def answer(item: WorkItem) -> None:
                await silo.send(item, [data], Deadline.after(20))

            silo.answer = answer

        same(one)
        same(other)
        assert await asyncio.gather(coordinator.ask("ewr"), coordinator.ask("jfk")) == [data, data]
        assert coordinator.transport.results.kept_bytes == len(data)


async def test_results_lost_with_a_connection_are_detected_soon(
    broker: PrivateBroker, cohort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wait long for slow transfers, but not for impossible ones."""
    monkeypatch.setattr("fedbroker.transport.blobs.store.PATIENCE_AFTER_LOSS", 0.3)
    async with coordinator_transport(broker.url, cohort) as coordinator, queue_admin(broker.url) as look:
        getting = asyncio.create_task(coordinator.transport.results.get("d", Deadline.after(30), 30.0))
        await asyncio.sleep(0)
        await look.delete(f"fedbroker.results.{coordinator.transport.coordinator_id}")
        with pytest.raises(Missing, match=r"nothing came for 0\.3 s"):
            async with asyncio.timeout(10):
                await getting


def sparse(size: int) -> bytes:
    """Return random float32 values, one in twenty of which is not zero."""
    random = np.random.default_rng(0)
    return (random.standard_normal(size // 4, np.float32) * (random.random(size // 4) < 0.05)).astype("f4").tobytes()


def dense(size: int) -> bytes:
    """Return random float32 values."""
    return np.random.default_rng(1).standard_normal(size // 4, np.float32).tobytes()


async def there_and_back(coordinator: RecordingCoordinator, data: bytes) -> tuple[int, int]:
    """Return the number of bulk bytes in both directions."""
    digest, lane = digest_of(data), coordinator.transport.traffic["bulk"]
    before = lane.bytes_out, lane.bytes_in
    await coordinator.transport.send_blob(digest, data, silo="ewr", deadline=Deadline.after(20))
    item = work_item("ewr", coordinator.transport.coordinator_id, blobs={digest: len(data)})
    assert isinstance(await coordinator.transport.request(item, {}, Deadline.after(20)), Done)
    assert await coordinator.transport.results.get(digest, Deadline.after(10)) == data
    return lane.bytes_out - before[0], lane.bytes_in - before[1]


async def test_auto_compresses_compressible_blobs_in_both_directions(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort, compression="auto") as silo,
        coordinator_transport(broker.url, cohort, compression="auto") as coordinator,
    ):
        for data, most in ((sparse(8 * MIB), 0.25), (sparse(20 * MIB), 0.25), (dense(8 * MIB), 1.02)):
            out, back = await there_and_back(coordinator, data)
            assert out <= most * len(data)
            assert back <= most * len(data)
        assert out >= len(data)  # dense numbers are sent uncompressed
        assert (silo.transport.blobs.pending_bytes, coordinator.transport.results.pending_bytes) == (0, 0)


@pytest.mark.parametrize("compression", ["off", "on"])
async def test_receiver_decompresses_regardless_of_its_own_setting(
    broker: PrivateBroker, cohort: str, compression: Compression
) -> None:
    other: Compression = "on" if compression == "off" else "off"
    async with (
        silo_transport(broker.url, cohort, compression=compression),
        coordinator_transport(broker.url, cohort, compression=other) as coordinator,
    ):
        data = sparse(3 * MIB)
        out, back = await there_and_back(coordinator, data)
        small, large = (out, back) if other == "on" else (back, out)
        assert small < len(data) / 4
        assert large > len(data)
        data = secrets.token_bytes(2 * MIB + 3)  # incompressible data does not grow
        assert max(await there_and_back(coordinator, data)) < 1.001 * len(data)


async def test_compressed_broadcast_can_be_cancelled_and_sent_again(broker: PrivateBroker, cohort: str) -> None:
    data = sparse(32 * MIB)
    digest = digest_of(data)
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort, compression="on") as coordinator,
    ):
        for seconds in (0.0, 0.001, 0.005, *[0.02] * 2 * WINDOW):  # more often than the window has room
            sending = asyncio.create_task(
                coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(20))
            )
            await asyncio.wait([sending], timeout=seconds)
            sending.cancel()
            await asyncio.wait([sending])
        await coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(20))
        assert await silo.transport.blobs.get(digest, Deadline.after(10)) == data


@pytest.mark.alone
async def test_decompression_bomb_is_refused_immediately(broker: PrivateBroker, cohort: str) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(512 * MIB))
    digest = digest_of(bytes(4 * MIB))
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
    ):
        async with memory() as grown:
            getting = asyncio.create_task(silo.transport.blobs.get(digest, Deadline.after(30), 30))
            await asyncio.sleep(0)
            await look.publish("fedbroker.blobs", cohort, encode(Chunk(digest, 512 * MIB, 0, "zstd"), [bomb]))
            with pytest.raises(Missing, match="more than 4194304 bytes"):
                async with asyncio.timeout(5):
                    await getting
        assert grown[0] < 64 * MIB
        await coordinator.transport.send_blob(digest, bytes(4 * MIB), silo=None, deadline=Deadline.after(5))
        assert await silo.transport.blobs.get(digest, Deadline.after(5)) == bytes(4 * MIB)
