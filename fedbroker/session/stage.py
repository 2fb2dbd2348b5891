"""The state of one client stage: who has answered what, and whether it is over.

A plain state machine: no clock, no broker. What becomes of a stage is its policy's to say; this is the seam for other
ways to treat stragglers than to fail. Imports wire and the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from fedbroker.errors import ComputationFailed, DeadlineExceeded, FedbrokerError, SiloError
from fedbroker.wire.messages import Done, Failed

__all__ = ["FailPolicy", "Lost", "Outcome", "Policy", "StageState"]


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came from a silo.

    Attributes:
        reason: ``expired`` (never picked up in time), ``delivery_limit`` (picked up again and again, never
            acknowledged), ``rejected``, ``unroutable`` (the silo has no queue), ``time`` (picked up, not answered).
    """

    silo: str
    reason: Literal["expired", "delivery_limit", "rejected", "unroutable", "time"]


Outcome: TypeAlias = Done | Failed | Lost


class Policy(Protocol):
    """What to do about silos that did not answer."""

    def failure(self, state: StageState) -> FedbrokerError | None:
        """The error that ends the stage, or None to go on with those that are pending or done."""
        ...


@dataclass(slots=True)
class StageState:
    """Outcomes of one client stage, each silo's first one.

    Attributes:
        session: the session's id.
        level: the stage's number.
        silos: everybody who was asked, in membership order.
        seconds: the time that the stage was given.
    """

    session: str
    level: int
    silos: tuple[str, ...]
    seconds: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def settle(self, silo: str, outcome: Outcome) -> None:
        """Record how a silo ended; whatever comes after its first outcome is ignored."""
        if silo in self.silos:
            self.outcomes.setdefault(silo, outcome)

    @property
    def pending(self) -> tuple[str, ...]:
        """Who has not ended yet, in membership order."""
        return tuple(silo for silo in self.silos if silo not in self.outcomes)

    @property
    def participants(self) -> tuple[str, ...]:
        """Whose answers count, in membership order."""
        return tuple(silo for silo in self.silos if isinstance(self.outcomes.get(silo), Done))


class FailPolicy:
    """Every silo must answer: the first that does not ends the stage."""

    def failure(self, state: StageState) -> FedbrokerError | None:
        """See :class:`Policy`."""
        failed = [outcome for outcome in state.outcomes.values() if isinstance(outcome, Failed)]
        if failed:
            return _silo_error(state, failed[0])
        lost = [outcome for outcome in state.outcomes.values() if isinstance(outcome, Lost)]
        return _deadline_error(state, lost) if lost else None


def _silo_error(state: StageState, failed: Failed) -> SiloError:
    error = SiloError(
        failed.silo,
        failed.cause,
        stage=state.level,
        session=state.session,
        retryable=failed.kind == "lost",
        hint=failed.hint,
    )
    if failed.kind == "computation":
        status, _, detail = failed.cause.partition(": ")
        error.__cause__ = ComputationFailed(status, detail)
    return error


_WHY = {
    "expired": "never picked its work up",
    "time": "picked its work up but did not answer",
    "delivery_limit": "picked its work up again and again without answering",
    "rejected": "rejected its work",
    "unroutable": "has no queue at the broker",
}


def _deadline_error(state: StageState, lost: Sequence[Lost]) -> FedbrokerError:
    if all(one.reason in ("unroutable", "rejected", "delivery_limit") for one in lost):
        one = lost[0]
        return SiloError(
            one.silo,
            f"it {_WHY[one.reason]}",
            stage=state.level,
            session=state.session,
            retryable=one.reason == "unroutable",  # another try asks whoever is there by then
            hint="see the silo's log, and start it again if it is down",
        )
    details = "; ".join(f"silo {one.silo!r} {_WHY[one.reason]}" for one in lost)
    return DeadlineExceeded(
        f"client stage {state.level} was not answered by all within {state.seconds:g} s: {details}",
        silos=[one.silo for one in lost],
        unread=[one.silo for one in lost if one.reason == "expired"],
        stage=state.level,
        session=state.session,
        hint="raise stage_timeout if the silos are slow, or see why they are down",
    )
