"""Memory for large blobs, in huge pages if the system has them."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from typing import Final, TypeAlias

__all__ = ["Buffer", "joined", "room"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes."""

LARGE: Final = 4 << 20
"""Bytes, two huge pages: a smaller buffer is an ordinary bytearray."""


def room(size: int) -> memoryview:
    """Return a writable buffer of ``size`` zero bytes.

    The kernel allocates the pages of a large buffer when they are first written, 2 MiB at a time: writing 100 MiB takes
    a third of the time that a ``bytearray`` takes, most of which the kernel spends page by page (``python -m
    benchmarks.room``).
    """
    if size < LARGE:
        return memoryview(bytearray(size))
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages uses small ones
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def joined(parts: Iterable[Buffer]) -> Buffer:
    """Return the parts joined into one buffer, each copied once."""
    every = list(parts)
    size = sum(map(len, every))
    if size < LARGE:
        return b"".join(every)
    into, at = room(size), 0
    for part in every:
        into[at : at + len(part)] = part
        at += len(part)
    return into.toreadonly()
