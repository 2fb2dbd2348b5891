"""Laws of compressed chunks: coded content is read back, and none needs more memory than a chunk may."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError, WireError
from fedbroker.wire import DEFAULT_LIMITS, Assembler, Limits, cut, decode, digest_of, encode
from fedbroker.wire.coding import check_compression, coded, compressible, decoded
from fedbroker.wire.messages import Chunk

MIB = 2**20
SKIPPED = b"\x50\x2a\x4d\x18\4\0\0\0four"  # a skippable frame of zstd
LIMITS = Limits(min_chunk=1, small_chunk=64, large_chunk=1000)

repetitive = st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=20), st.integers(10, 50))
contents = st.binary(max_size=300) | repetitive


def read(chunk: Chunk, data: bytes, limits: Limits = LIMITS) -> bytes | None:
    """Return the content, or None for a one-line WireError; any other exception fails the test."""
    try:
        return bytes(decoded(chunk, data, limits))
    except WireError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    return None


def whole(data: bytes) -> Chunk:
    """Return a blob's only chunk, marked as coded."""
    return Chunk(digest_of(data), len(data), 0, "zstd")


def frame(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_checksum=True, **options).compress(data)


def lying(honest: bytes, size: int) -> bytes:
    """Return the frame with another content size in its header."""
    return honest[:4] + b"\xa4" + struct.pack("<I", size) + honest[zstandard.frame_header_size(honest) :]


@given(contents, st.integers(1, 1000))
def test_coded_content_is_read_back(data: bytes, chunk_bytes: int) -> None:
    assembler, found = Assembler(LIMITS), None
    for plain, view in cut(digest_of(data), data, chunk_bytes):
        chunk, piece = coded(plain, view)
        assert memoryview(piece).nbytes <= len(view)
        assert (chunk.digest, chunk.size, chunk.offset) == (plain.digest, plain.size, plain.offset)
        message, (attachment,) = decode(encode(chunk, [piece]))
        assert isinstance(message, Chunk)
        content = decoded(message, attachment, LIMITS)
        assert content == view
        found = assembler.add(message, content, 0.0)
    assert found == data


def test_incompressible_content_is_sent_uncoded() -> None:
    for data in (b"", b"x", np.random.default_rng(0).bytes(1000)):
        plain = Chunk(digest_of(data), len(data), 0)
        chunk, piece = coded(plain, data)
        assert chunk == plain
        assert piece is data


@given(repetitive, st.data(), st.integers(1, 255))
def test_changed_byte_is_a_wire_error_or_has_no_effect(data: bytes, draw: st.DataObject, flip: int) -> None:
    body = bytearray(frame(data))
    body[draw.draw(st.integers(0, len(body) - 1))] ^= flip
    assert read(whole(data), bytes(body)) in (None, data)


@given(repetitive, st.data())
def test_truncated_frame_is_a_wire_error(data: bytes, draw: st.DataObject) -> None:
    body = frame(data)
    assert read(whole(data), body[: draw.draw(st.integers(0, len(body) - 1))]) is None


@given(repetitive, st.binary(min_size=1, max_size=20) | st.sampled_from([frame(b"more"), SKIPPED]))
def test_trailing_bytes_are_a_wire_error(data: bytes, rest: bytes) -> None:
    assert read(whole(data + data), frame(data) + rest) is None


@given(st.binary(max_size=100), st.sampled_from([b"", zstandard.FRAME_HEADER, SKIPPED[:4]]))
def test_any_bytes_are_a_wire_error_or_bounded(body: bytes, magic: bytes) -> None:
    found = read(Chunk("d", 10_000, 0, "zstd"), magic + body)
    assert found is None or 0 < len(found) <= 1000


@given(repetitive, st.integers(0, 2**32 - 1))
def test_false_size_in_a_header_is_a_wire_error(data: bytes, size: int) -> None:
    assert read(Chunk("d", 2**40, 0, "zstd"), lying(frame(data), size)) in (None, data)


@pytest.mark.parametrize(
    ("chunk", "body", "words"),
    [
        (Chunk("d", 1000, 0, "zstd"), frame(bytes(1000), write_content_size=False), "does not state its size"),
        (Chunk("d", 1001, 0, "zstd"), frame(bytes(1001)), "more than 1000 bytes"),
        (Chunk("d", 99, 0, "zstd"), frame(bytes(100)), "100 bytes at 0 does not fit a blob of 99"),
        (Chunk("d", 1000, 901, "zstd"), frame(bytes(100)), "100 bytes at 901 does not fit a blob of 1000"),
        (Chunk("d", 100, 101, "zstd"), frame(bytes(1)), "does not fit"),
        (Chunk("d", 100, 0, "zstd"), frame(b""), "of 0 bytes"),
        (Chunk("d", 100, 0, "zstd"), SKIPPED, "damaged"),
        (Chunk("d", 100, 0, "zstd"), b"not compressed at all", "damaged"),
        (Chunk("d", 100, 0, "zstd"), b"", "damaged"),
    ],
)
def test_each_refusal_has_its_reason(chunk: Chunk, body: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words) as caught:
        decoded(chunk, body, LIMITS)
    assert caught.value.hint


def test_largest_chunk_is_read() -> None:
    assert read(Chunk("d", 2000, 1000, "zstd"), frame(bytes(1000))) == bytes(1000)


def test_decompression_bomb_uses_no_more_memory_than_a_chunk() -> None:
    bomb = frame(bytes(64 * MIB))
    assert len(bomb) < 8192
    largest = DEFAULT_LIMITS.large_chunk
    tracemalloc.start()
    try:
        for body in (bomb, lying(bomb, 1), lying(bomb, largest), lying(bomb, 2**32 - 1)):
            assert read(Chunk("d", 2**30, 0, "zstd"), body, DEFAULT_LIMITS) is None
        assert tracemalloc.get_traced_memory()[1] < largest + MIB
    finally:
        tracemalloc.stop()


def test_frame_with_a_large_window_is_refused() -> None:
    honest = frame(bytes(100))
    at = zstandard.frame_header_size(honest)
    body = honest[:4] + b"\x84" + bytes([(27 - 10) << 3]) + struct.pack("<I", 100) + honest[at:]
    assert zstandard.get_frame_parameters(body).window_size == 2**27
    assert read(Chunk("d", 100, 0, "zstd"), body) is None


def arrays(kept: float, count: int = MIB) -> bytes:
    """Return random float32 values with this share of non-zero ones."""
    random = np.random.default_rng(0)
    return (random.standard_normal(count, np.float32) * (random.random(count) < kept)).astype(np.float32).tobytes()


TEXT = b"".join(path.read_bytes() for path in sorted((Path(__file__).parents[2] / "docs").glob("*.md")))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.5])
def test_sparse_arrays_are_compressed(kept: float) -> None:
    assert compressible(arrays(kept))


@pytest.mark.parametrize("data", [TEXT, TEXT[:20_000], TEXT[:64] * 1000], ids=len)
def test_text_is_compressed(data: bytes) -> None:
    assert compressible(data)


@pytest.mark.parametrize("count", [5000, 16_384, 16_385, MIB])
def test_dense_weights_are_not_compressed(count: int) -> None:
    assert not compressible(arrays(1.0, count))
    glorot = np.random.default_rng(1).uniform(-0.05, 0.05, count).astype(np.float32)
    assert not compressible(memoryview(glorot))


def test_one_compressible_part_does_not_decide() -> None:
    dense = arrays(1.0)
    assert not compressible(bytes(16 * 1024) + dense)
    assert not compressible(dense + bytes(4096))
    assert compressible(bytes(3 * MIB) + dense[:MIB])


@pytest.mark.parametrize("data", [b"", b"x"])
def test_tiny_content_is_not_compressed(data: bytes) -> None:
    assert not compressible(data)


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="'zip'"):
        check_compression("zip")  # type: ignore[arg-type]
