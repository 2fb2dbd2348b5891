"""Detection of a runtime that is computing, by the processor time that the kernel reports."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["computes", "processes_below", "processor_seconds"]

WINDOW_SECONDS: Final = 0.25
WINDOWS: Final = 4
BUSY: Final = 0.1
"""The share of one processor above which a runtime counts as computing, even on a loaded machine: at rest it uses
almost none.
"""

_PROCESSES: Final = Path("/proc")
_UTIME, _STIME = 11, 12  # indexes behind the command's name in /proc/PID/stat


async def computes(host: int) -> bool:
    """Return whether a process and its descendants compute without a pause for one second.

    Also True where that cannot be determined, as the safe assumption.
    """
    for _ in range(WINDOWS):
        before = processor_seconds(host)
        await asyncio.sleep(WINDOW_SECONDS)
        after = processor_seconds(host)
        if before is not None and after is not None and after - before < BUSY * WINDOW_SECONDS:
            return False
    return True


def processes_below(process: int) -> Iterator[int]:
    """Yield the ids of a process and of its descendants.

    Raises:
        OSError: the process is gone or cannot be read.
    """
    yield process
    children = (_PROCESSES / str(process) / "task" / str(process) / "children").read_text().split()
    for child in children:
        yield from processes_below(int(child))


def processor_seconds(process: int) -> float | None:
    """Return the processor time of a process and its descendants; None if it is gone or cannot be read."""
    try:
        return sum(_seconds(one) for one in processes_below(process))
    except OSError:
        return None


def _seconds(process: int) -> float:
    numbers = (_PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()
    return (int(numbers[_UTIME]) + int(numbers[_STIME])) / os.sysconf("SC_CLK_TCK")
