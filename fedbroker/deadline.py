"""A point in time by which something must be done: made once, passed down, never a bare number of seconds.

Imports nothing of fedbroker.
"""

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
        """The deadline that many seconds from now (``now`` is for tests with a clock of their own)."""
        return cls((time.monotonic() if now is None else now) + seconds)

    @classmethod
    def never(cls) -> Deadline:
        """One that does not come."""
        return cls(math.inf)

    def left(self, *, now: float | None = None) -> float:
        """Seconds until it, never negative."""
        return max(0.0, self.at - (time.monotonic() if now is None else now))

    def passed(self, *, now: float | None = None) -> bool:
        """Whether it lies behind."""
        return self.left(now=now) == 0.0

    def earlier(self, other: Deadline) -> Deadline:
        """The nearer of the two."""
        return min(self, other)
