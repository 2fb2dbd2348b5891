"""Strikes of silos that flood their coordinator or send invalid messages; beyond a limit, their messages are ignored.

A silo cannot cause strikes of another one, because the broker checks the silo's name in routing keys. Plain state with
the time passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MisbehaviourCounter"]


@dataclass(slots=True)
class _Count:
    since: float
    strikes: int = 0


@dataclass(slots=True)
class MisbehaviourCounter:
    """Strikes of each silo, counted over ``seconds``.

    Attributes:
        most: strikes that a silo may have; a few are no fault of the silo (a late reply, a lost connection).
        seconds: time after which a silo's count starts again from zero.
    """

    most: int
    seconds: float = 60.0
    _counts: dict[str, _Count] = field(default_factory=dict)

    def add(self, silo: str, now: float) -> bool:
        """Count one strike; return True if it is the first one beyond the limit."""
        self._forget(now)
        count = self._counts.setdefault(silo, _Count(now))
        count.strikes += 1
        return count.strikes == self.most + 1

    def out(self, silo: str, now: float) -> bool:
        """Return whether a silo is beyond the limit, so that its messages are ignored."""
        count = self._counts.get(silo)
        return count is not None and count.strikes > self.most and now - count.since <= self.seconds

    def _forget(self, now: float) -> None:
        old = [silo for silo, count in self._counts.items() if now - count.since > self.seconds]
        for silo in old:
            del self._counts[silo]
