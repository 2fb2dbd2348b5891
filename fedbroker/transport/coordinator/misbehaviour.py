"""Silos that flood their coordinator, or send what makes no sense: counted by name, and not listened to any more.

A silo cannot speak under another's name: the broker checks the end of its routing keys. Plain state with the time
passed in; imports nothing of fedbroker.
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
    """Strikes of each silo within the last while.

    Attributes:
        most: how many a silo may have; a few are nobody's fault (an answer that came late, a connection that broke).
        seconds: after which its count starts anew.
    """

    most: int
    seconds: float = 60.0
    _counts: dict[str, _Count] = field(default_factory=dict)

    def add(self, silo: str, now: float) -> bool:
        """Count one; whether it is the one too many."""
        self._forget(now)
        count = self._counts.setdefault(silo, _Count(now))
        count.strikes += 1
        return count.strikes == self.most + 1

    def out(self, silo: str, now: float) -> bool:
        """Whether a silo has had too many, and is not listened to."""
        count = self._counts.get(silo)
        return count is not None and count.strikes > self.most and now - count.since <= self.seconds

    def _forget(self, now: float) -> None:
        old = [silo for silo, count in self._counts.items() if now - count.since > self.seconds]
        for silo in old:
            del self._counts[silo]
