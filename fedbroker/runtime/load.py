"""Whether a runtime computes, as the kernel sees it: by the processor time that it uses. Standard library only."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

__all__ = ["computes"]

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
        before = _used(host)
        await asyncio.sleep(WINDOW_SECONDS)
        after = _used(host)
        if before is not None and after is not None and after - before < BUSY * WINDOW_SECONDS:
            return False
    return True


def _used(process: int) -> float | None:
    """Seconds of processor time of a process and of those below it; None where it is gone or not to be seen."""
    directory = _PROCESSES / str(process)
    try:
        numbers = (directory / "stat").read_text().rpartition(")")[2].split()
        children = (directory / "task" / str(process) / "children").read_text().split()
    except OSError:
        return None
    below = [_used(int(child)) for child in children]
    ticks = int(numbers[_UTIME]) + int(numbers[_STIME])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(seconds for seconds in below if seconds is not None)
