"""The state of one client stage: the silos that were asked, their outcomes, and the verdict on the stage.

A plain state machine without a clock or a broker. Times are seconds on any one monotonic clock.
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
    """The verdict that nothing is decided yet; ask again after the next event, or at ``until``."""

    until: float


@dataclass(frozen=True, slots=True)
class Close:
    """The verdict that the stage is over; the replies of its participants count."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The verdict that the stage has failed."""

    error: FedbrokerError


Verdict: TypeAlias = Wait | Close | Fail


@dataclass(slots=True)
class StageState:
    """Outcomes of one client stage, each silo's first one.

    Attributes:
        session: the session's id.
        stage: the stage's number.
        silos: the silos that are asked at first, in membership order.
        needed: number of silos that must answer.
        seconds: time limit of the stage.
        deadline: end of that time.
        grace: seconds after the quorum at which the stage closes; None waits for all.
    """

    session: str
    stage: int
    silos: Sequence[str]
    needed: int
    seconds: float
    deadline: float
    grace: float | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _slots: dict[str, int] = field(init=False)
    _holders: list[list[str]] = field(init=False)  # by slot: the silos that have ever had it
    _vacant: dict[str, int] = field(default_factory=dict)
    _answered: int = 0
    _passed: int = 0
    _quorum_at: float | None = None

    def __post_init__(self) -> None:
        self._slots = {silo: slot for slot, silo in enumerate(self.silos)}
        self._holders = [[silo] for silo in self.silos]

    def settle(self, silo: str, outcome: Outcome, now: float) -> bool:
        """Record a silo's outcome; return False for any outcome after its first, and for a silo that was not asked."""
        if silo not in self._slots or silo in self.outcomes:
            return False
        self.outcomes[silo] = outcome
        self._answered += isinstance(outcome, Done)
        if self._quorum_at is None and self._answered >= self.needed:
            self._quorum_at = now
        return True

    def offer(self, silo: str) -> None:
        """Open the slot of a silo that did not answer to late joiners."""
        self._vacant[silo] = self._slots[silo]

    def fill_slot(self, newcomer: str, in_place_of: str) -> None:
        """Give an open slot to a late joiner, which is asked next."""
        slot = self._slots[newcomer] = self._vacant.pop(in_place_of)
        self._holders[slot].append(newcomer)

    @property
    def asked(self) -> tuple[str, ...]:
        """All silos that were asked, in membership order; a late joiner follows the silo that it replaced."""
        return tuple(sorted(self._slots, key=self._slots.__getitem__))

    @property
    def pending(self) -> tuple[str, ...]:
        """The silos that were asked and have no outcome yet, in membership order."""
        return tuple(silo for silo in self.asked if silo not in self.outcomes)

    def advance(self) -> list[str]:
        """Advance over the slots, in membership order, to the next that may still bring a reply.

        Returns:
            The silos that have had the slots passed by this call.
        """
        passed: list[str] = []
        while self._passed < len(self._holders) and self._is_settled(self._passed):
            passed += self._holders[self._passed]
            self._passed += 1
        return passed

    def slot_of(self, silo: str) -> int:
        """Return a silo's place in membership order."""
        return self._slots[silo]

    @property
    def participants(self) -> tuple[str, ...]:
        """The silos whose replies count, in membership order."""
        return tuple(silo for silo in self.asked if isinstance(self.outcomes.get(silo), Done))

    @property
    def dropped(self) -> tuple[str, ...]:
        """The silos that were asked and did not answer, in membership order."""
        return tuple(silo for silo in self.asked if not isinstance(self.outcomes.get(silo), Done))

    def verdict(self, now: float) -> Verdict:
        """Return the verdict on the stage at this time: wait, close or fail."""
        answered, open_slots = self._answered, len(self._slots) - len(self.outcomes) + len(self._vacant)
        in_time = now < self.deadline
        if answered + (open_slots if in_time else 0) < self.needed:
            if in_time and self.pending and self._time_is_up:
                return Wait(self.deadline)  # pending silos are about to time out, too: the error then names all
            return Fail(stage_error(self.session, self.stage, self.seconds, self._endings(in_time)))
        if answered >= self.needed:
            until = self.deadline
            if self.grace is not None and self._quorum_at is not None:
                until = min(until, self._quorum_at + self.grace)
            if not open_slots or now >= until:
                return Close()
            return Wait(until)
        return Wait(self.deadline)

    def close(self, now: float) -> dict[str, Outcome]:
        """Close the stage: drop pending silos, fill no more slots. Return the outcome of each dropped silo."""
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
        """True if time alone ended the silos that did not answer, by our clock or the broker's, which differ a bit."""
        short = [outcome for outcome in self.outcomes.values() if not isinstance(outcome, Done)]
        return all(isinstance(outcome, Lost) and outcome.reason in ("expired", "time") for outcome in short)

    def _endings(self, in_time: bool) -> list[Outcome]:
        """Return the outcomes in the order in which they came; silos pending after the deadline have timed out."""
        overdue = () if in_time else self.pending
        return [*self.outcomes.values(), *(Lost(silo, "time") for silo in overdue)]
