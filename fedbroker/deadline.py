"""A point in time by which something must be done: made once and passed down, in place of a number of seconds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A moment on this process's monotonic clock.

    Attributes:
        at: seconds on ``time.monotonic``'s clock.
    """

    at: float

    @classmethod
    def after(cls, seconds: float, *, now: float | None = None) -> Deadline:
        """Return the deadline in that many seconds (``now`` is for tests with a clock of their own)."""
        return cls((time.monotonic() if now is None else now) + seconds)

    @classmethod
    def never(cls) -> Deadline:
        """Return a deadline that never passes."""
        return cls(math.inf)

    def left(self, *, now: float | None = None) -> float:
        """Return the seconds until the deadline, never negative."""
        return max(0.0, self.at - (time.monotonic() if now is None else now))

    def passed(self, *, now: float | None = None) -> bool:
        """Return whether the deadline has passed."""
        return self.left(now=now) == 0.0

    def earlier(self, other: Deadline) -> Deadline:
        """Return the earlier of two deadlines."""
        return min(self, other)
