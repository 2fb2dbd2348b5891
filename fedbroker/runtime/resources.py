"""The resources of the runtime, as the kernel reports them: memory that it may use, its processor time, its stalls.

A runtime has stalled if a request is pending while each of its threads sleeps. TFF's runtime counts a task as pending
before it starts a thread for the task. If the thread cannot be made, for lack of memory, the exception unwinds into a
destructor that waits for the task's end: the request hangs for ever, and nothing is logged. From outside, the only sign
is a sleeping process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "MIN_MEMORY",
    "SHARE",
    "StallWatch",
    "computes",
    "memory_bytes",
    "processes_below",
    "processor_seconds",
    "share_of_memory",
]

SHARE: Final = 0.75
"""The share of the available memory that a runtime may allocate by default."""

MIN_MEMORY: Final = 256 << 20
"""Bytes. After its first computation a runtime takes 45 MiB on two processors, and 2 MiB for each further one."""

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")

WINDOW_SECONDS: Final = 0.25
"""Time between two samples of a runtime's processor time."""

WINDOW_COUNT: Final = 4
"""Number of these intervals, one second in all, that a runtime must compute through to count as busy."""
BUSY_SHARE: Final = 0.1
"""The share of one processor above which a runtime counts as computing, even on a loaded machine: at rest it uses
almost none.
"""

_UTIME, _STIME = 11, 12  # indexes behind the command's name in /proc/PID/stat

STALL_SAMPLES: Final = 12
"""Consecutive samples, three seconds, that must find the runtime asleep. Counted rather than timed, so that a pause of
our own event loop does not count as one of the runtime's.
"""

PROGRESS_SECONDS: Final = 0.02
"""Processor time within the samples that counts as no progress: gRPC's threads wake up now and then."""

_SLEEPING: Final = "S"  # neither running, starved of a processor ("R"), waiting for a disk ("D") nor stopped ("T")
_PROCESSES: Final = Path("/proc")


def share_of_memory() -> int:
    """Return the number of bytes that a runtime may allocate by default."""
    return int(memory_bytes() * SHARE)


def memory_bytes(groups: Path = _CGROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the machine's memory, or the limit of this process's control groups if that is lower, in bytes.

    Args:
        groups: where control groups are mounted.
        own_groups: the file that names this process's own.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(groups, own_groups)])


def _limits(groups: Path, own_groups: Path) -> Iterator[int]:
    """Yield the limits of our control groups and of their ancestors; skip groups without a limit."""
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for directory in (group, *group.parents):
            # In a container the path may be the host's and not exist: the container's own group is the mount.
            text = _read(directory / name)
            if text.isdigit() and int(text) > 0:
                yield int(text)
            if directory == base:
                break


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


async def computes(host: int) -> bool:
    """Return whether a process and its descendants compute without a pause for one second.

    Also True where that cannot be determined, as the safe assumption.
    """
    for _ in range(WINDOW_COUNT):
        before = processor_seconds(host)
        await asyncio.sleep(WINDOW_SECONDS)
        after = processor_seconds(host)
        if before is not None and after is not None and after - before < BUSY_SHARE * WINDOW_SECONDS:
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
        return sum(_seconds(descendant) for descendant in processes_below(process))
    except OSError:
        return None


def _seconds(process: int) -> float:
    fields = (_PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class _IdleSpan:
    """A span of samples without progress, and the state at its start."""

    seconds: float
    answered: int
    samples: int = 0


class StallWatch:
    """Watches a runtime while requests to it are pending.

    Args:
        host: pid of the runtime's host process.
        on_stall: called once, when the runtime has stalled.

    Attributes:
        stalled: True after a stall was detected.
    """

    def __init__(self, host: int, on_stall: Callable[[], None]) -> None:
        self.stalled = False
        self._host = host
        self._on_stall = on_stall
        self._pending = 0
        self._answered = 0
        self._idle: _IdleSpan | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @contextlib.contextmanager
    def request(self) -> Generator[None]:
        """Count a request as pending."""
        self._pending += 1
        if self._timer is None:
            self._schedule()
        try:
            yield
        finally:
            self._pending -= 1
            self._answered += 1

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(WINDOW_SECONDS, self._sample)

    def _sample(self) -> None:
        self._timer = None
        if not self._pending:
            self._idle = None
        elif self._has_stalled():
            self.stalled = self._closed = True
            self._on_stall()
        else:
            self._schedule()

    def _has_stalled(self) -> bool:
        seconds = processor_seconds(self._host)
        idle = self._idle
        if not seconds or not _asleep(self._host):  # None, and 0 where the kernel does not account for it
            self._idle = None
        elif idle is None or idle.answered != self._answered or seconds - idle.seconds > PROGRESS_SECONDS:
            self._idle = _IdleSpan(seconds, self._answered)
        else:
            idle.samples += 1
            return idle.samples >= STALL_SAMPLES
        return False


def _asleep(host: int) -> bool:
    """Return whether each thread of a process and its descendants sleeps; False if that cannot be read."""
    try:
        return all(
            (thread / "stat").read_text().rpartition(")")[2].split()[0] == _SLEEPING
            for process in processes_below(host)
            for thread in (_PROCESSES / str(process) / "task").iterdir()
        )
    except OSError:  # the process is gone, or has just ended a thread
        return False
