"""Compression of chunks with zstd, each chunk by itself, and decompression within bounds of memory.

Plain functions without I/O.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import msgspec
import zstandard

from fedbroker.errors import ConfigError, WireError
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Chunk

__all__ = ["Compression", "check_compression", "coded", "compressible", "decoded"]

Compression: TypeAlias = Literal["off", "auto", "on"]
"""The setting of compression: no blobs, those of which a sample shrinks (:func:`compressible`), or all."""

# Level 3 takes 1.3 to 2 times as long and gains little. Measured in chunks of 1 MiB, at levels 1 and 3: float32 values,
# one in ten not zero, shrink to 0.14 of their size at both, at 430 and 290 MB/s; text to 0.31 and 0.28, at 230 and 120.
LEVEL: Final = 1
SAMPLE_SLICES: Final = 16  # spread over the blob: its start alone may differ from the rest
SAMPLE_BYTES: Final = 64 * 1024
"""Total bytes of the slices."""
WORTHWHILE_RATIO: Final = 0.8
"""A blob is compressed if its sample shrinks below this share of its size."""


def check_compression(value: Compression) -> Compression:
    """Return the value if it is a valid setting.

    Raises:
        ConfigError: the value is not one of the settings.
    """
    if value not in get_args(Compression):
        raise ConfigError(f"compression is {value!r}", hint='use "off", "auto" or "on"')
    return value


def compressible(data: Buffer) -> bool:
    """Return whether a sample of the blob shrinks enough for compression to pay.

    The sample is 16 slices from the blob's start to its end, 64 KiB in all. Numbers whose bits are mostly random, as of
    dense weights, are not worth it.
    """
    view = memoryview(data).cast("B")
    slice_bytes = SAMPLE_BYTES // SAMPLE_SLICES
    starts = [at * max(0, len(view) - slice_bytes) // (SAMPLE_SLICES - 1) for at in range(SAMPLE_SLICES)]
    sample = view if len(view) <= SAMPLE_BYTES else b"".join(view[start : start + slice_bytes] for start in starts)
    return len(_frame(sample)) < WORTHWHILE_RATIO * len(sample)


def coded(chunk: Chunk, data: Buffer) -> tuple[Chunk, Buffer]:
    """Return the chunk as one zstd frame that states its content's size; unchanged if that would not be smaller."""
    frame = _frame(data)
    if len(frame) >= memoryview(data).nbytes:
        return chunk, data
    return msgspec.structs.replace(chunk, coding="zstd"), frame


def decoded(chunk: Chunk, data: Buffer, limits: Limits) -> Buffer:
    """Return the chunk's bytes, allocating no more than the frame states, and never more than the largest chunk.

    Raises:
        WireError: the attachment is not exactly one zstd frame that states its content's size, or its content is larger
            than a chunk may be, does not fit the blob, or is not of the stated size. No other exception is raised.
    """
    if not chunk.coding:
        return data
    try:
        _check(chunk, zstandard.get_frame_parameters(data), limits)
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"a compressed chunk is damaged ({error})", hint="send the blob again") from error


def _check(chunk: Chunk, frame: zstandard.FrameParameters, limits: Limits) -> None:
    """Check the stated sizes before memory is allocated; an absent size counts as the largest number."""
    largest = max(limits.small_chunk, limits.large_chunk)
    if max(frame.content_size, frame.window_size) > largest:
        raise WireError(
            f"a compressed chunk holds more than {largest} bytes, or does not state its size",
            hint="use the same limits on both sides",
        )
    if not 0 < frame.content_size <= chunk.size - chunk.offset:
        raise WireError(
            f"a compressed chunk of {frame.content_size} bytes at {chunk.offset} does not fit a blob of {chunk.size}",
            hint="send the blob again",
        )


def _frame(data: Buffer) -> bytes:
    """Return one zstd frame with the size and a checksum of its content."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)
