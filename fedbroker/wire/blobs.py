"""Blobs: addressed by their content, cut into chunks and assembled again from chunks in any order; memory for them.

Plain functions and objects without I/O. The caller passes the time in.
"""

from __future__ import annotations

import contextlib
import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import blake3

from fedbroker.errors import WireError
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits, too_large_value
from fedbroker.wire.messages import Chunk, Digest

__all__ = ["Assembler", "Assembly", "Buffer", "allocate", "content_digest", "cut", "digest_of", "joined"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes."""

HUGE_PAGES_FROM: Final = 4 << 20
"""Bytes, two huge pages: a smaller buffer is an ordinary bytearray."""


def allocate(size: int) -> memoryview:
    """Return a writable buffer of ``size`` zero bytes.

    The kernel allocates the pages of a large buffer when they are first written, 2 MiB at a time: writing 100 MiB takes
    a third of the time that a ``bytearray`` takes, most of which the kernel spends page by page (``python -m
    benchmarks.room``).
    """
    if size < HUGE_PAGES_FROM:
        return memoryview(bytearray(size))
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages uses small ones
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def joined(parts: Iterable[Buffer]) -> Buffer:
    """Return the parts joined into one buffer, each copied once."""
    views = list(parts)
    size = sum(map(len, views))
    if size < HUGE_PAGES_FROM:
        return b"".join(views)
    buffer, position = allocate(size), 0
    for view in views:
        buffer[position : position + len(view)] = view
        position += len(view)
    return buffer.toreadonly()


DIGEST_BYTES: Final = 16  # of BLAKE3's 32: no search finds a second blob with the same 128 bits


def digest_of(data: Buffer) -> Digest:
    """Return the digest of a blob: the first 16 bytes of its BLAKE3 hash, as 32 hexadecimal digits.

    A signature over the digest vouches for the content: finding another blob with the same digest is infeasible.
    """
    return blake3.blake3(data).hexdigest(length=DIGEST_BYTES)


def content_digest(data: Buffer) -> bytes:
    """Return all 32 bytes of a blob's BLAKE3 hash, for comparisons in which either side may have made the blobs.

    The digest that addresses a blob is too short for that: two blobs that share it can be found.
    """
    return blake3.blake3(data).digest()


def cut(digest: Digest, data: Buffer, chunk_bytes: int) -> Iterator[tuple[Chunk, memoryview]]:
    """Yield the blob's chunks in order, each with its bytes (a view, not a copy); one empty chunk for an empty blob."""
    view = memoryview(data).cast("B")
    for offset in range(0, max(1, len(view)), chunk_bytes):
        yield Chunk(digest=digest, size=len(view), offset=offset), view[offset : offset + chunk_bytes]


@dataclass(slots=True)
class Assembly:
    """One incomplete blob: a buffer for all of it, and the ranges of bytes that have arrived.

    Attributes:
        size: of the whole blob, in bytes.
        touched: when its last chunk arrived, on the caller's clock.
    """

    size: int
    touched: float
    _buffer: memoryview = field(init=False)
    # [start, end) of arrived bytes: disjoint and sorted
    _spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def __post_init__(self) -> None:
        self._buffer = allocate(self.size)

    @property
    def complete(self) -> bool:
        """Return whether every byte has arrived."""
        return self._spans == [(0, self.size)]

    def add(self, offset: int, data: memoryview) -> None:
        """Copy one chunk in. It may overwrite bytes that arrived before: the digest of the complete blob decides."""
        end = offset + len(data)
        self._buffer[offset:end] = data
        first = bisect_left(self._spans, offset, key=lambda span: span[1])
        last = bisect_right(self._spans, end, key=lambda span: span[0])
        touching = self._spans[first:last]
        if touching:
            offset, end = min(offset, touching[0][0]), max(end, touching[-1][1])
        self._spans[first:last] = [(offset, end)]

    def content(self) -> memoryview:
        """Return the blob, read-only."""
        return self._buffer.toreadonly()


class Assembler:
    """Assembles blobs from chunks that arrive in any order, some of them twice.

    Only complete blobs that match their digest are returned. The number and total size of incomplete blobs are bounded;
    a blob that gets no further chunk is abandoned. Times are seconds on any one monotonic clock.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._pending: dict[Digest, Assembly] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of incomplete blobs."""
        return len(self._pending)

    @property
    def pending_bytes(self) -> int:
        """Return the bytes reserved for incomplete blobs."""
        return self._bytes

    def add(self, chunk: Chunk, data: Buffer, now: float) -> memoryview | None:
        """Take in one chunk; return the whole blob (read-only) if it is complete now.

        Raises:
            WireError: the chunk contradicts itself or an earlier one, or exceeds a limit, or the blob is complete and
                does not match its digest. The chunks of that blob are dropped then; other blobs are not affected.
        """
        view = memoryview(data).cast("B")
        try:
            self._check(chunk, len(view))
            if len(view) == chunk.size and chunk.digest not in self._pending:
                return _verify(chunk.digest, view.toreadonly())  # the only chunk: no buffer, no copy
            assembly = self._assembly(chunk, now)
            assembly.add(chunk.offset, view)
        except WireError:
            self.drop(chunk.digest)
            raise
        assembly.touched = now
        if not assembly.complete:
            return None
        self.drop(chunk.digest)
        return _verify(chunk.digest, assembly.content())

    def drop(self, digest: Digest) -> None:
        """Drop the chunks of a blob, if some have arrived."""
        assembly = self._pending.pop(digest, None)
        if assembly is not None:
            self._bytes -= assembly.size

    def sweep(self, now: float) -> tuple[Digest, ...]:
        """Give up the blobs that got no chunk for ``limits.pending_seconds``; return their digests."""
        limit = now - self._limits.pending_seconds
        stale = tuple(digest for digest, assembly in self._pending.items() if assembly.touched <= limit)
        for digest in stale:
            self.drop(digest)
        return stale

    def _check(self, chunk: Chunk, length: int) -> None:
        if not 0 <= chunk.size <= self._limits.max_blob:
            raise too_large_value(chunk.size, self._limits.max_blob)
        end = chunk.offset + length
        fits = 0 <= chunk.offset <= end <= chunk.size
        if not fits or (end < chunk.size and length < self._limits.min_chunk) or (length == 0 and chunk.size > 0):
            raise WireError(
                f"a chunk of {length} bytes at {chunk.offset} does not fit a blob of {chunk.size} bytes",
                hint="send the blob again",
            )

    def _assembly(self, chunk: Chunk, now: float) -> Assembly:
        assembly = self._pending.get(chunk.digest)
        if assembly is None:
            self.sweep(now)
            limits = self._limits
            if len(self._pending) >= limits.max_pending_blobs or self._bytes + chunk.size > limits.max_pending_bytes:
                raise WireError(
                    f"too many incomplete blobs ({len(self._pending)}, with {self._bytes} bytes) to start another",
                    hint="send fewer blobs at the same time",
                )
            assembly = self._pending[chunk.digest] = Assembly(chunk.size, now)
            self._bytes += chunk.size
        elif assembly.size != chunk.size:
            raise WireError(f"two sizes for one blob: {assembly.size} and {chunk.size}", hint="send the blob again")
        return assembly


def _verify(digest: Digest, content: memoryview) -> memoryview:
    actual = digest_of(content)
    if actual != digest:
        raise WireError(f"a blob is damaged: its digest is {actual}, not {digest}", hint="send it again")
    return content
