"""Room in memory for large blobs, in large pages where the system has them. Imports nothing of fedbroker."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from typing import Final, TypeAlias

__all__ = ["Buffer", "joined", "room"]

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes."""

LARGE: Final = 4 << 20


def room(size: int) -> memoryview:
    """So many bytes to be written, all of them zero.

    Much room is nowhere until it is written, and then comes 2 MiB at a time: to write 100 MiB takes a third of the time
    that it takes in a ``bytearray``, most of which is the kernel's, page by page (``python -m benchmarks.room``).
    """
    if size < LARGE:
        return memoryview(bytearray(size))
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages has small ones
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def joined(parts: Iterable[Buffer]) -> Buffer:
    """One part after another, each copied once."""
    every = list(parts)
    size = sum(map(len, every))
    if size < LARGE:
        return b"".join(every)
    into, at = room(size), 0
    for part in every:
        into[at : at + len(part)] = part
        at += len(part)
    return into.toreadonly()
