"""The store of blobs: kept and evicted blobs, and the time that a reader waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Missing, WireError
from fedbroker.transport.blobs import store as module
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.wire import Limits, cut, digest_of
from tests.support.transports import eventually

LIMITS = Limits(min_chunk=1)
SOON = 5.0


def feed(store: BlobStore, data: bytes, chunk_bytes: int = 10) -> str:
    digest = digest_of(data)
    for chunk, view in cut(digest, data, chunk_bytes):
        store.accept(chunk, view)
    return digest


async def test_stored_blob_is_returned() -> None:
    store = BlobStore()
    room = bytearray(b"hello")
    digest = store.put(room)
    room[:] = b"jelly"  # it is a copy
    content = await store.get(digest, Deadline.after(0))
    assert (bytes(content), content.readonly) == (b"hello", True)
    assert digest in store
    store.discard(digest)
    assert digest not in store
    assert store.kept_bytes == 0


async def test_chunks_become_a_blob_and_wake_its_reader() -> None:
    store = BlobStore(limits=LIMITS)
    data = bytes(range(100))
    waiting = [asyncio.create_task(store.get(digest_of(data), Deadline.after(SOON))) for _ in range(3)]
    await asyncio.sleep(0)
    feed(store, data)
    assert [bytes(content) for content in await asyncio.gather(*waiting)] == [data] * 3
    assert feed(store, data) in store  # repeated: harmless
    assert store.kept_bytes == 100


async def test_least_recently_used_blobs_are_evicted_first() -> None:
    store = BlobStore(250)
    one, two = store.put(b"1" * 100), store.put(b"2" * 100)
    await store.get(one, Deadline.after(0))
    three = store.put(b"3" * 100)
    assert [digest in store for digest in (one, two, three)] == [True, False, True]
    assert store.kept_bytes == 200


async def test_newest_blob_is_kept_even_above_the_store_limit() -> None:
    store = BlobStore(250)
    small, large = store.put(b"1" * 100), store.put(b"2" * 1000)
    assert [digest in store for digest in (small, large)] == [False, True]
    store.put(b"3")
    assert large not in store


async def test_pinned_blobs_are_kept_until_unpinned() -> None:
    store = BlobStore(250)
    names = [digest_of(character * 100) for character in (b"1", b"2", b"3", b"4")]
    with store.pinned(names), store.pinned(names[:1]):
        for character in (b"1", b"2", b"3", b"4"):
            store.put(character * 100)
        assert all(name in store for name in names)
    assert [name in store for name in names] == [False, False, True, True]


async def test_awaited_blob_is_not_evicted() -> None:
    store = BlobStore(250, limits=LIMITS)
    data = b"1" * 200
    waiting = asyncio.create_task(store.get(digest_of(data), Deadline.after(SOON)))
    await asyncio.sleep(0)
    feed(store, data)
    feed(store, b"2" * 200)
    feed(store, b"3" * 200)
    assert bytes(await waiting) == data


async def test_blob_without_progress_is_missing() -> None:
    store = BlobStore()
    started = time.monotonic()
    with pytest.raises(Missing, match=r"nothing came for 0\.1 s") as caught:
        await store.get("d", Deadline.after(SOON), 0.1)
    assert caught.value.digest == "d"
    assert 0.08 < time.monotonic() - started < 1


async def test_readers_wait_briefly_after_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedbroker.transport.blobs.store.PATIENCE_AFTER_LOSS", 0.1)
    store = BlobStore()
    waiting = asyncio.create_task(store.get("d", Deadline.after(SOON), SOON))
    await asyncio.sleep(0)
    store.connection_lost()
    with pytest.raises(Missing, match=r"nothing came for 0\.1 s"):
        await waiting
    with pytest.raises(Missing, match=r"nothing came for 0\.1 s"):  # it may have been in transit then
        await store.get("e", Deadline.after(SOON), SOON)
    with pytest.raises(Missing, match=r"nothing came for 0\.05 s"):  # it was not
        await store.get("f", Deadline.after(SOON), 0.05)


async def test_progress_of_any_blob_counts() -> None:
    store = BlobStore(limits=LIMITS)
    waiting = asyncio.create_task(store.get(digest_of(b"x"), Deadline.after(SOON), 0.2))
    started = time.monotonic()
    number = 0
    while time.monotonic() - started < 0.5:
        feed(store, str(number := number + 1).encode() * 10)
        await asyncio.sleep(0.02)
    assert not waiting.done()
    feed(store, b"x")
    assert bytes(await waiting) == b"x"


async def test_deadline_ends_the_wait() -> None:
    store = BlobStore()
    with pytest.raises(DeadlineExceeded):
        await store.get("d", Deadline.after(0.05), 5.0)


async def test_damaged_blob_is_missing_immediately_and_may_be_sent_again() -> None:
    store = BlobStore(limits=LIMITS)
    data = b"x" * 100
    digest = digest_of(data)
    waiting = asyncio.create_task(store.get(digest, Deadline.after(SOON), SOON))
    await asyncio.sleep(0)
    chunks = list(cut(digest, b"y" * 100, 60))
    store.accept(*chunks[0])
    with pytest.raises(WireError):
        store.accept(*chunks[1])
    with pytest.raises(Missing, match="damaged"):
        await waiting
    feed(store, data)
    assert bytes(await store.get(digest, Deadline.after(0))) == data


async def test_stale_chunks_are_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP", 0.02)
    store = BlobStore(limits=Limits(min_chunk=1, pending_seconds=0.1), linger=0.1)
    digest = store.put(b"done")
    chunk, view = next(cut("d" * 32, b"x" * 100, 50))
    store.accept(chunk, view)
    assert (store.kept_bytes, store.pending_bytes) == (4, 100)
    with store.pinned([digest]):
        await eventually(lambda: store.pending_bytes == 0)
        assert digest in store
    await eventually(lambda: store.kept_bytes == 0)
    assert store._sweeping is None  # nothing left to remove


async def test_closed_store_ends_all_waits() -> None:
    store = BlobStore(linger=1.0)
    store.put(b"x")
    waiting = asyncio.create_task(store.get("d", Deadline.after(SOON), SOON))
    await asyncio.sleep(0)
    store.close()
    with pytest.raises(Missing, match="closed"):
        await waiting
    store.put(b"late")
    assert store.kept_bytes == 0
