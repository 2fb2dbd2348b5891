"""Outcomes of a silo in a stage: one word for reports, and the error of a stage that fails because of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from fedbroker.errors import ComputationFailed, FedbrokerError, PolicyRefusal, SiloError, StragglerTimeout
from fedbroker.text import seconds_text
from fedbroker.wire.messages import Done, Failed

__all__ = ["Lost", "Outcome", "OutcomeName", "TooLate", "outcome_name", "replaceable", "stage_error", "why"]


@dataclass(frozen=True, slots=True)
class Lost:
    """The outcome of a silo that sent no reply.

    Attributes:
        reason: ``expired`` (the work item was never picked up in time), ``delivery_limit`` (picked up again and again,
            never acknowledged), ``rejected``, ``unroutable`` (the silo has no queue), ``time`` (picked up, but not
            answered).
    """

    silo: str
    reason: Literal["expired", "delivery_limit", "rejected", "unroutable", "time"]


@dataclass(frozen=True, slots=True)
class TooLate:
    """The outcome of a silo whose reply did not come before the stage closed, with a quorum and after the grace."""

    silo: str


Outcome: TypeAlias = Done | Failed | Lost | TooLate

OutcomeName: TypeAlias = Literal[
    "answered", "expired", "timed out", "crashed", "refused", "failed", "unreachable", "late"
]
"""``expired``: it never picked up its work. ``timed out``: it picked it up and did not answer. ``crashed``: its agent
or its runtime died. ``refused``: it refused the work, or its reply was invalid. ``failed``: its data or the computation
failed. ``unreachable``: it has no queue. ``late``: the stage closed before it answered."""

_LOST: Final[dict[str, OutcomeName]] = {
    "expired": "expired",
    "time": "timed out",
    "delivery_limit": "crashed",
    "rejected": "refused",
    "unroutable": "unreachable",
}
_FAILED: Final[dict[str, OutcomeName]] = {
    "data": "failed",
    "computation": "failed",
    "lost": "crashed",
    "refused": "refused",
    "time": "timed out",
}
_WHY: Final = {
    "expired": "never picked its work up",
    "time": "picked its work up but did not answer",
    "delivery_limit": "picked its work up again and again without answering",
    "rejected": "rejected its work",
    "unroutable": "has no queue at the broker",
}


def outcome_name(outcome: Outcome) -> OutcomeName:
    """Return the outcome in one word, for reports."""
    match outcome:
        case Done():
            return "answered"
        case Failed():
            return _FAILED[outcome.error_type]
        case Lost():
            return _LOST[outcome.reason]
        case TooLate():
            return "late"


def why(outcome: Outcome) -> str:
    """Return the reason for the outcome; empty for a silo that answered."""
    match outcome:
        case Done():
            return ""
        case Failed():
            return outcome.cause
        case Lost():
            return f"it {_WHY[outcome.reason]}"
        case TooLate():
            return "the stage closed before it answered"


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
    early = [one for one in lost if one.reason in ("unroutable", "rejected", "delivery_limit")]
    if early and len(early) == len(lost):
        one = early[0]
        return SiloError(
            one.silo,
            f"it {_WHY[one.reason]}",
            stage=stage,
            session=session,
            retryable=one.reason == "unroutable",  # another attempt asks the silos that are present by then
            hint="see the silo's log, and start it again if it is down",
        )
    details = "; ".join(f"silo {one.silo!r} {_WHY[one.reason]}" for one in lost)
    return StragglerTimeout(
        f"client stage {stage} was not answered by enough silos within {seconds_text(seconds)}: {details}",
        silos=[one.silo for one in lost],
        unread=[one.silo for one in lost if one.reason == "expired"],
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
