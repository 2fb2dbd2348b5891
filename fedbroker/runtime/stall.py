"""Detection of a stalled runtime: a request is pending, but every thread of the runtime sleeps.

TFF's runtime counts a task as pending before it starts a thread for the task. If the thread cannot be made, for lack of
memory, the exception unwinds into a destructor that waits for the task's end: the request hangs for ever, and nothing
is logged. From outside, the only sign is a sleeping process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedbroker.runtime.load import processes_below, processor_seconds

__all__ = ["StallWatch"]

WINDOW_SECONDS: Final = 0.25
SAMPLES: Final = 12
"""Consecutive samples, three seconds, that must find the runtime asleep. Counted rather than timed, so that a pause of
our own event loop does not count as one of the runtime's.
"""

REST_SECONDS: Final = 0.02
"""Processor time within the samples that counts as no progress: gRPC's threads wake up now and then."""

_PROCESSES: Final = Path("/proc")
_SLEEPING: Final = "S"  # neither running, starved of a processor ("R"), waiting for a disk ("D") nor stopped ("T")


@dataclass(slots=True)
class _Rest:
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
        self._rest: _Rest | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
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
            self._rest = None
        elif self._has_stalled():
            self.stalled = self._closed = True
            self._on_stall()
        else:
            self._schedule()

    def _has_stalled(self) -> bool:
        seconds = processor_seconds(self._host)
        rest = self._rest
        if not seconds or not _asleep(self._host):  # None, and 0 where the kernel does not account for it
            self._rest = None
        elif rest is None or rest.answered != self._answered or seconds - rest.seconds > REST_SECONDS:
            self._rest = _Rest(seconds, self._answered)
        else:
            rest.samples += 1
            return rest.samples >= SAMPLES
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
