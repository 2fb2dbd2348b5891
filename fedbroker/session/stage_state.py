"""The state of one client stage: the straggler policy, the outcome of each silo, and the verdict on the stage.

A plain state machine without a clock or a broker. Times are seconds on any one monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from fedbroker.errors import ComputationFailed, ConfigError, FedbrokerError, PolicyRefusal, SiloError, StragglerTimeout
from fedbroker.text import seconds_text
from fedbroker.transport.coordinator.requests import Reason
from fedbroker.wire.messages import Done, ErrorType, Failed

__all__ = [
    "Cancelled",
    "Close",
    "Fail",
    "Lost",
    "LostReason",
    "MergeOrder",
    "Outcome",
    "OutcomeName",
    "Policy",
    "StageState",
    "Stragglers",
    "TooLate",
    "Verdict",
    "Wait",
    "outcome_name",
    "replaceable",
    "why",
]

MergeOrder: TypeAlias = Literal["membership", "arrival"]
"""``membership``: the order in which silos are asked, so that equal replies give equal bits, unless the replies that
wait for their turn exceed :data:`fedbroker.session.merge_scheduler.ROOM`. ``arrival``: the order in which they arrive,
which takes the least memory."""

Stragglers: TypeAlias = Literal["fail", "drop", "replace"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The treatment of stragglers and of replies in a client stage.

    Attributes:
        stragglers: ``fail``: every silo must answer, and the first that cannot ends the stage. ``drop``: continue
            without them if the quorum answered. ``replace``: like ``drop``, and a late joiner gets the work item that
            the broker gave back.
        quorum: minimum of silos that must answer if some may be missing: a number of silos, or a fraction (a float up
            to 1.0) of the session's membership, rounded up.
        grace: seconds after the quorum at which the stage closes before its time is up; None waits for all silos until
            then.
        merge_order: order in which replies are merged, see :data:`MergeOrder`.

    Raises:
        ConfigError: a value is out of range.
    """

    stragglers: Stragglers = "fail"
    quorum: int | float = 1.0
    grace: float | None = None
    merge_order: MergeOrder = "membership"

    def __post_init__(self) -> None:
        if self.stragglers not in get_args(Stragglers):
            raise ConfigError(
                f"stragglers is {self.stragglers!r}", hint=f"use one of {', '.join(map(repr, get_args(Stragglers)))}"
            )
        fits = self.quorum >= 1 if isinstance(self.quorum, int) else 0.0 < self.quorum <= 1.0
        if isinstance(self.quorum, bool) or not fits:
            raise ConfigError(
                f"quorum is {self.quorum!r}", hint="use a number of silos, or a fraction above 0.0 and up to 1.0"
            )
        if self.grace is not None and not 0.0 <= self.grace < math.inf:
            raise ConfigError(f"grace is {self.grace!r} s", hint="use a number of seconds, or leave it out")
        if self.merge_order not in get_args(MergeOrder):
            raise ConfigError(f"merge_order is {self.merge_order!r}", hint='use "membership" or "arrival"')

    def needed(self, members: int) -> int:
        """Return how many of so many members must answer: at least one and at most all of them."""
        if self.stragglers == "fail":
            return members
        needed = self.quorum if isinstance(self.quorum, int) else math.ceil(self.quorum * members - 1e-9)
        return min(max(1, needed), members)


LostReason: TypeAlias = Literal[Reason, "time"]


@dataclass(frozen=True, slots=True)
class Lost:
    """The outcome of a silo that sent no reply.

    Attributes:
        reason: ``expired`` (the work item was never picked up in time), ``delivery_limit`` (picked up again and again,
            never acknowledged), ``rejected``, ``unroutable`` (the silo has no queue), ``time`` (picked up, but not
            answered).
    """

    silo: str
    reason: LostReason


@dataclass(frozen=True, slots=True)
class TooLate:
    """The outcome of a silo whose reply did not come before the stage closed, with a quorum and after the grace."""

    silo: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The outcome of a silo that was still in time when the stage failed because of other silos or the broker."""

    silo: str


Outcome: TypeAlias = Done | Failed | Lost | TooLate | Cancelled

OutcomeName: TypeAlias = Literal[
    "answered", "expired", "timed out", "crashed", "refused", "failed", "unreachable", "late", "cancelled"
]
"""``expired``: it never picked up its work. ``timed out``: it picked it up and did not answer. ``crashed``: its agent
or its runtime died. ``refused``: it refused the work, or its reply was invalid. ``failed``: its data or the computation
failed. ``unreachable``: it has no queue. ``late``: the stage closed before it answered. ``cancelled``: it
was in time, and the stage failed for another reason."""


def outcome_name(outcome: Outcome) -> OutcomeName:
    """Return the outcome in one word, for reports."""
    match outcome:
        case Done():
            return "answered"
        case Failed():
            return _failed_name(outcome.error_type)
        case Lost():
            return _lost_name(outcome.reason)
        case TooLate():
            return "late"
        case Cancelled():
            return "cancelled"


def _failed_name(error_type: ErrorType) -> OutcomeName:
    match error_type:
        case "data" | "computation":
            return "failed"
        case "lost":
            return "crashed"
        case "refused":
            return "refused"
        case "timeout":
            return "timed out"


def _lost_name(reason: LostReason) -> OutcomeName:
    match reason:
        case "expired":
            return "expired"
        case "time":
            return "timed out"
        case "delivery_limit":
            return "crashed"
        case "rejected":
            return "refused"
        case "unroutable":
            return "unreachable"


def _why_lost(reason: LostReason) -> str:
    match reason:
        case "expired":
            return "never picked its work up"
        case "time":
            return "picked its work up but did not answer"
        case "delivery_limit":
            return "picked its work up again and again without answering"
        case "rejected":
            return "rejected its work"
        case "unroutable":
            return "has no queue at the broker"


def why(outcome: Outcome) -> str:
    """Return the reason for the outcome; empty for a silo that answered."""
    match outcome:
        case Done():
            return ""
        case Failed():
            return outcome.cause
        case Lost():
            return f"it {_why_lost(outcome.reason)}"
        case TooLate():
            return "the stage closed before it answered"
        case Cancelled():
            return "it was in time, and the stage failed for another reason"


def replaceable(outcome: Outcome) -> bool:
    """Return whether another silo may have the work: the broker gave the item back, or nothing of it was done.

    A failure of the silo's data or of the computation is not replaceable: another silo would fail as well.
    """
    return (isinstance(outcome, Lost) and outcome.reason != "time") or (
        isinstance(outcome, Failed) and outcome.error_type == "lost"
    )


def stage_error(session: str, stage: int, seconds: float, outcomes: Sequence[Outcome]) -> FedbrokerError:
    """Return the error of a stage that too few silos answered.

    Args:
        session: the session's id.
        stage: the stage's number.
        seconds: time limit of the stage.
        outcomes: outcomes of all silos that were asked, in the order in which they came.
    """
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    if failed:
        return _silo_error(session, stage, failed[0])
    lost = [outcome for outcome in outcomes if isinstance(outcome, Lost)]
    early = [outcome for outcome in lost if outcome.reason in ("unroutable", "rejected", "delivery_limit")]
    if early and len(early) == len(lost):
        first = early[0]
        return SiloError(
            first.silo,
            f"it {_why_lost(first.reason)}",
            stage=stage,
            session=session,
            retryable=first.reason == "unroutable",  # another attempt asks the silos that are present by then
            hint="see the silo's log, and start it again if it is down",
        )
    details = "; ".join(f"silo {outcome.silo!r} {_why_lost(outcome.reason)}" for outcome in lost)
    return StragglerTimeout(
        f"client stage {stage} was not answered by enough silos within {seconds_text(seconds)}: {details}",
        silos=[outcome.silo for outcome in lost],
        unread=[outcome.silo for outcome in lost if outcome.reason == "expired"],
        stage=stage,
        session=session,
        hint="raise Timeouts(stage=) if the silos are slow, lower the quorum, or see why they are down",
    )


def _silo_error(session: str, stage: int, failed: Failed) -> SiloError:
    if failed.rule:
        return PolicyRefusal(failed.silo, failed.rule, failed.cause, stage=stage, session=session, hint=failed.hint)
    error = SiloError(
        failed.silo,
        failed.cause,
        stage=stage,
        session=session,
        retryable=failed.error_type == "lost",
        hint=failed.hint,
    )
    if failed.error_type == "computation":
        status, _, detail = failed.cause.partition(": ")
        error.__cause__ = ComputationFailed(status, detail)
    return error


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
        slots: the place in membership order of each silo that was asked; a late joiner has that of its straggler.
        outcomes: the outcome of each silo that has one.
    """

    session: str
    stage: int
    silos: Sequence[str]
    needed: int
    seconds: float
    deadline: float
    grace: float | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    slots: dict[str, int] = field(init=False)
    _holders: list[list[str]] = field(init=False)  # by slot: the silos that have ever had it
    _vacant: dict[str, int] = field(default_factory=dict[str, int])
    _answered: int = 0
    _passed: int = 0
    _quorum_at: float | None = None

    def __post_init__(self) -> None:
        self.slots = {silo: slot for slot, silo in enumerate(self.silos)}
        self._holders = [[silo] for silo in self.silos]

    def settle(self, silo: str, outcome: Outcome, now: float) -> bool:
        """Record a silo's outcome; return False for any outcome after its first, and for a silo that was not asked."""
        if silo not in self.slots or silo in self.outcomes:
            return False
        self.outcomes[silo] = outcome
        self._answered += isinstance(outcome, Done)
        if self._quorum_at is None and self._answered >= self.needed:
            self._quorum_at = now
        return True

    def offer(self, silo: str) -> None:
        """Open the slot of a silo that did not answer to late joiners."""
        self._vacant[silo] = self.slots[silo]

    def fill_slot(self, newcomer: str, in_place_of: str) -> None:
        """Give an open slot to a late joiner, which is asked next."""
        slot = self.slots[newcomer] = self._vacant.pop(in_place_of)
        self._holders[slot].append(newcomer)

    @property
    def asked(self) -> tuple[str, ...]:
        """All silos that were asked, in membership order; a late joiner follows the silo that it replaced."""
        return tuple(sorted(self.slots, key=self.slots.__getitem__))

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
        for holders in self._holders[self._passed :]:
            if self._passed in self._vacant.values() or any(silo not in self.outcomes for silo in holders):
                break
            passed += holders
            self._passed += 1
        return passed

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
        answered, open_slots = self._answered, len(self.slots) - len(self.outcomes) + len(self._vacant)
        in_time = now < self.deadline
        if answered + (open_slots if in_time else 0) < self.needed:
            if in_time and self.pending and self._time_is_up:
                return Wait(self.deadline)  # pending silos are about to time out, too: the error then names all
            return Fail(stage_error(self.session, self.stage, self.seconds, self._final_outcomes(in_time)))
        if answered >= self.needed:
            until = self.deadline
            if self.grace is not None and self._quorum_at is not None:
                until = min(until, self._quorum_at + self.grace)
            if not open_slots or now >= until:
                return Close()
            return Wait(until)
        return Wait(self.deadline)

    def close(self, now: float, *, failed: bool = False) -> dict[str, Outcome]:
        """Close the stage: drop pending silos, fill no more slots.

        Args:
            now: the present time.
            failed: whether the stage failed, and did not close with a quorum.

        Returns:
            The outcome of each dropped silo.
        """
        dropped = {silo: self._outcome_at_close(silo, now, failed) for silo in self.pending}
        self.outcomes |= dropped
        self._vacant.clear()
        return dropped

    def _outcome_at_close(self, silo: str, now: float, failed: bool) -> Outcome:
        if now >= self.deadline:
            return Lost(silo, "time")
        return Cancelled(silo) if failed else TooLate(silo)

    @property
    def _time_is_up(self) -> bool:
        """True if time alone ended the silos that did not answer, by our clock or the broker's, which differ a bit."""
        short = [outcome for outcome in self.outcomes.values() if not isinstance(outcome, Done)]
        return all(isinstance(outcome, Lost) and outcome.reason in ("expired", "time") for outcome in short)

    def _final_outcomes(self, in_time: bool) -> list[Outcome]:
        """Return the outcomes in the order in which they came; silos pending after the deadline have timed out."""
        overdue = () if in_time else self.pending
        return [*self.outcomes.values(), *(Lost(silo, "time") for silo in overdue)]
