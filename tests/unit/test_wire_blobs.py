"""Laws of chunking and reassembly: any order, repeated, damaged or surplus chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import WireError
from fedbroker.wire import Assembler, Limits, cut, digest_of
from fedbroker.wire.messages import Chunk

if TYPE_CHECKING:
    import random

LIMITS = Limits(min_chunk=1)


@given(st.binary(max_size=300), st.integers(1, 50), st.randoms(use_true_random=False), st.integers(0, 5))
def test_blob_is_reassembled_from_any_order(data: bytes, chunk_bytes: int, order: random.Random, doubles: int) -> None:
    digest = digest_of(data)
    chunks = list(cut(digest, data, chunk_bytes))
    assert sum(len(view) for _, view in chunks) == len(data)
    last = order.choice(chunks)
    first = [piece for piece in chunks if piece is not last]
    sequence = first + [order.choice(first) for _ in range(doubles if first else 0)]
    order.shuffle(sequence)
    assembler = Assembler(LIMITS)
    for chunk, view in sequence:
        assert assembler.add(chunk, view, 0.0) is None
    whole = assembler.add(*last, 0.0)
    assert whole is not None
    assert bytes(whole) == data
    assert whole.readonly
    assert (len(assembler), assembler.pending_bytes) == (0, 0)


@given(st.binary(min_size=40, max_size=200), st.integers(1, 20), st.integers(1, 20))
def test_two_senders_may_use_different_chunk_sizes(data: bytes, one: int, other: int) -> None:
    assembler = Assembler(LIMITS)
    digest = digest_of(data)
    wholes = [assembler.add(chunk, view, 0.0) for chunk, view in [*cut(digest, data, one)][:-1]]
    wholes += [assembler.add(chunk, view, 0.0) for chunk, view in cut(digest, data, other)]
    assert next(bytes(whole) for whole in wholes if whole is not None) == data


@given(st.binary(min_size=2, max_size=100), st.integers(1, 50), st.data())
def test_damaged_blob_is_never_returned(data: bytes, chunk_bytes: int, draw: st.DataObject) -> None:
    digest = digest_of(data)
    damaged = bytearray(data)
    damaged[draw.draw(st.integers(0, len(data) - 1))] ^= 1
    assembler = Assembler(LIMITS)
    *first, last = cut(digest, damaged, chunk_bytes)
    for chunk, view in first:
        assert assembler.add(chunk, view, 0.0) is None
    with pytest.raises(WireError, match="damaged"):
        assembler.add(*last, 0.0)
    assert (len(assembler), assembler.pending_bytes) == (0, 0)


def test_single_chunk_is_not_copied() -> None:
    data = b"x" * 1000
    whole = Assembler().add(Chunk(digest_of(data), 1000, 0), memoryview(data), 0.0)
    assert whole is not None
    assert whole.obj is data


def test_empty_blob_is_reassembled() -> None:
    digest = digest_of(b"")
    [(chunk, view)] = cut(digest, b"", 4)
    whole = Assembler().add(chunk, view, 0.0)
    assert whole is not None
    assert bytes(whole) == b""


@pytest.mark.parametrize(
    ("chunk", "length"),
    [
        (Chunk("d", 100, 90), 20),  # beyond the end
        (Chunk("d", 100, 101), 1),
        (Chunk("d", 100, -10), 20),
        (Chunk("d", 100, 0), 0),  # nothing
        (Chunk("d", 10_001, 0), 1000),  # too large a blob
        (Chunk("d", 10_000, 0), 9),  # too small a chunk
    ],
)
def test_chunks_out_of_bounds_are_refused(chunk: Chunk, length: int) -> None:
    assembler = Assembler(Limits(max_blob=10_000, min_chunk=10))
    with pytest.raises(WireError):
        assembler.add(chunk, b"x" * length, 0.0)
    assert (len(assembler), assembler.pending_bytes) == (0, 0)


def test_largest_blob_and_smallest_chunk_are_accepted() -> None:
    assembler = Assembler(Limits(max_blob=10_000, min_chunk=10))
    assert assembler.add(Chunk("d", 10_000, 0), b"x" * 10, 0.0) is None
    assert assembler.add(Chunk("d", 10_000, 9999), b"x", 0.0) is None


def test_two_sizes_for_one_blob_are_refused() -> None:
    assembler = Assembler(LIMITS)
    assembler.add(Chunk("d", 100, 0), b"x", 0.0)
    with pytest.raises(WireError, match="two sizes"):
        assembler.add(Chunk("d", 99, 0), b"x", 0.0)


def test_incomplete_blobs_are_bounded_in_number_and_bytes() -> None:
    assembler = Assembler(Limits(min_chunk=1, max_pending_blobs=3, max_pending_bytes=1000))
    for name in ("a", "b", "c"):
        assert assembler.add(Chunk(name, 300, 0), b"x", 0.0) is None
    with pytest.raises(WireError, match="too many incomplete blobs"):
        assembler.add(Chunk("d", 10, 0), b"x", 0.0)
    assembler.drop("a")
    with pytest.raises(WireError, match="too many incomplete blobs"):
        assembler.add(Chunk("d", 401, 0), b"x", 0.0)
    assert assembler.add(Chunk("d", 400, 0), b"x", 0.0) is None
    assert (len(assembler), assembler.pending_bytes) == (3, 1000)


def test_stale_incomplete_blob_is_discarded() -> None:
    assembler = Assembler(Limits(min_chunk=1, pending_seconds=60.0))
    assembler.add(Chunk("old", 100, 0), b"x", 0.0)
    assembler.add(Chunk("fed", 100, 0), b"x", 0.0)
    assembler.add(Chunk("fed", 100, 1), b"x", 59.0)
    assert assembler.sweep(59.9) == ()
    assert assembler.sweep(60.0) == ("old",)
    assert assembler.pending_bytes == 100


def test_full_assembler_discards_stale_blobs() -> None:
    assembler = Assembler(Limits(min_chunk=1, max_pending_blobs=1, pending_seconds=60.0))
    assembler.add(Chunk("old", 100, 0), b"x", 0.0)
    assert assembler.add(Chunk("new", 100, 0), b"x", 60.0) is None


def test_chunk_sizes_follow_the_limits() -> None:
    limits = Limits()
    assert limits.chunk_bytes(16 * 2**20) == 2**20
    assert limits.chunk_bytes(20 * 2**20) == 4 * 2**20


@given(size=st.integers(1, 64 * 2**20))
def test_last_chunk_is_never_too_small(size: int) -> None:
    limits = Limits()
    piece = limits.chunk_bytes(size)
    usual = limits.small_chunk if size <= limits.small_blob else limits.large_chunk
    assert usual <= piece <= usual + limits.min_chunk
    assert size <= piece or size % piece == 0 or size % piece >= limits.min_chunk - size // piece


def test_few_extra_bytes_make_no_extra_chunk() -> None:
    assert Limits().chunk_bytes(2**20 + 40) == 2**20 + 40
    assert Limits().chunk_bytes(16 * 2**20 + 40) == 4 * 2**20 + 10
    tight = Limits(max_message=2**20 + 2**13)
    assert tight.chunk_bytes(2**20 + 40) == 2**20  # a message has no more room


def test_memory_of_a_chunk_is_its_content_not_its_claim() -> None:
    before = psutil.Process().memory_info().rss
    limits = Limits()
    Assembler(limits).add(Chunk("0" * 32, limits.max_blob, 0), bytes(limits.min_chunk), 0.0)
    assert psutil.Process().memory_info().rss - before < 16 << 20
