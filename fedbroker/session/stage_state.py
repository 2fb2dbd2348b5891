"""The state of one client stage: who was asked, who has answered what, and whether it is over.

A plain state machine: no clock of its own, no broker. Times are seconds on any one monotonic clock. Imports wire, the
session's failures and the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fedbroker.errors import FedbrokerError
from fedbroker.session.outcomes import Lost, Outcome, TooLate, stage_error
from fedbroker.wire.messages import Done

__all__ = ["Close", "Fail", "StageState", "Verdict", "Wait"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is decided; look again when something happens, or at ``until``."""

    until: float


@dataclass(frozen=True, slots=True)
class Close:
    """The stage is over; its participants' answers count."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The stage cannot end well any more."""

    error: FedbrokerError


Verdict: TypeAlias = Wait | Close | Fail


@dataclass(slots=True)
class StageState:
    """Outcomes of one client stage, each silo's first one.

    Attributes:
        session: the session's id.
        level: the stage's number.
        silos: everybody who is asked at first, in membership order.
        needed: how many must answer.
        seconds: the time that the stage was given.
        deadline: when that is up.
        grace: seconds after the quorum at which the stage closes; None waits for all.
    """

    session: str
    level: int
    silos: Sequence[str]
    needed: int
    seconds: float
    deadline: float
    grace: float | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _slots: dict[str, int] = field(init=False)
    _holders: list[list[str]] = field(init=False)  # by slot: who has ever had it
    _vacant: dict[str, int] = field(default_factory=dict)
    _answered: int = 0
    _passed: int = 0
    _quorum_at: float | None = None

    def __post_init__(self) -> None:
        self._slots = {silo: slot for slot, silo in enumerate(self.silos)}
        self._holders = [[silo] for silo in self.silos]

    def settle(self, silo: str, outcome: Outcome, now: float) -> bool:
        """Record how a silo ended; False for whatever comes after its first outcome, and for strangers."""
        if silo not in self._slots or silo in self.outcomes:
            return False
        self.outcomes[silo] = outcome
        self._answered += isinstance(outcome, Done)
        if self._quorum_at is None and self._answered >= self.needed:
            self._quorum_at = now
        return True

    def offer(self, silo: str) -> None:
        """A silo that ended without an answer gives its slot to whoever comes."""
        self._vacant[silo] = self._slots[silo]

    def fill_slot(self, newcomer: str, in_place_of: str) -> None:
        """A late joiner takes the slot, and is asked."""
        slot = self._slots[newcomer] = self._vacant.pop(in_place_of)
        self._holders[slot].append(newcomer)

    @property
    def asked(self) -> tuple[str, ...]:
        """Everybody who was ever asked, in membership order: a late joiner right behind whose place it took."""
        return tuple(sorted(self._slots, key=self._slots.__getitem__))

    @property
    def pending(self) -> tuple[str, ...]:
        """Who was asked and has not ended yet, in membership order."""
        return tuple(silo for silo in self.asked if silo not in self.outcomes)

    def advance(self) -> list[str]:
        """Go on over the slots, in membership order, up to the next that may still bring an answer.

        Returns:
            Who sat in those that were passed now, for the first time.
        """
        passed: list[str] = []
        while self._passed < len(self._holders) and self._is_settled(self._passed):
            passed += self._holders[self._passed]
            self._passed += 1
        return passed

    def slot_of(self, silo: str) -> int:
        """A silo's place in membership order."""
        return self._slots[silo]

    @property
    def participants(self) -> tuple[str, ...]:
        """Whose answers count, in membership order."""
        return tuple(silo for silo in self.asked if isinstance(self.outcomes.get(silo), Done))

    @property
    def dropped(self) -> tuple[str, ...]:
        """Who was asked and takes no part, in membership order."""
        return tuple(silo for silo in self.asked if not isinstance(self.outcomes.get(silo), Done))

    def verdict(self, now: float) -> Verdict:
        """Whether the stage goes on."""
        answered, open_slots = self._answered, len(self._slots) - len(self.outcomes) + len(self._vacant)
        in_time = now < self.deadline
        if answered + (open_slots if in_time else 0) < self.needed:
            if in_time and self.pending and self._time_is_up:
                return Wait(self.deadline)  # the others are as good as due: the error names all who are missing
            return Fail(stage_error(self.session, self.level, self.seconds, self._endings(in_time)))
        if answered >= self.needed:
            until = self.deadline
            if self.grace is not None and self._quorum_at is not None:
                until = min(until, self._quorum_at + self.grace)
            if not open_slots or now >= until:
                return Close()
            return Wait(until)
        return Wait(self.deadline)

    def close(self, now: float) -> dict[str, Outcome]:
        """Whoever is pending is out, slots stay empty, and nothing counts that comes from now on. How each ended."""
        late: dict[str, Outcome] = {
            silo: TooLate(silo) if now < self.deadline else Lost(silo, "time") for silo in self.pending
        }
        self.outcomes |= late
        self._vacant.clear()
        return late

    def _is_settled(self, slot: int) -> bool:
        return slot not in self._vacant.values() and all(silo in self.outcomes for silo in self._holders[slot])

    @property
    def _time_is_up(self) -> bool:
        """Whether nothing but time ended those who did not answer: the broker's clock and ours agree to a moment."""
        short = [outcome for outcome in self.outcomes.values() if not isinstance(outcome, Done)]
        return all(isinstance(outcome, Lost) and outcome.reason in ("expired", "time") for outcome in short)

    def _endings(self, in_time: bool) -> list[Outcome]:
        """In the order in which they came; who is pending when the time is up has run out of it."""
        overdue = () if in_time else self.pending
        return [*self.outcomes.values(), *(Lost(silo, "time") for silo in overdue)]
