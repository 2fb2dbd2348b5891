"""Whether a runtime computes, as the kernel sees it: by the processor time that it uses. Standard library only."""

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
"""The share of one processor above which it computes, even where others want it: at rest it uses next to none."""

_PROCESSES: Final = Path("/proc")
_UTIME, _STIME = 11, 12  # behind the command's name, in /proc/PID/stat


async def computes(host: int) -> bool:
    """Whether a process and those below it compute without a pause, for one second.

    True, too, where that cannot be seen: who cannot tell must assume it.
    """
    for _ in range(WINDOWS):
        before = processor_seconds(host)
        await asyncio.sleep(WINDOW_SECONDS)
        after = processor_seconds(host)
        if before is not None and after is not None and after - before < BUSY * WINDOW_SECONDS:
            return False
    return True


def processes_below(process: int) -> Iterator[int]:
    """Yield the ids of a process and of those below it.

    Raises:
        OSError: it is gone, or not to be seen.
    """
    yield process
    children = (_PROCESSES / str(process) / "task" / str(process) / "children").read_text().split()
    for child in children:
        yield from processes_below(int(child))


def processor_seconds(process: int) -> float | None:
    """Return the processor time of a process and of those below it; None where it is gone or not to be seen."""
    try:
        return sum(_seconds(one) for one in processes_below(process))
    except OSError:
        return None


def _seconds(process: int) -> float:
    numbers = (_PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()
    return (int(numbers[_UTIME]) + int(numbers[_STIME])) / os.sysconf("SC_CLK_TCK")
