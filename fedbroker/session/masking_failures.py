"""Errors of a masked sum from which silos may drop out: a refused step, and too few silos for the masks' removal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from fedbroker.errors import FedbrokerError, MaskingError, SiloError, StragglerTimeout
from fedbroker.masking.steps import Refusal
from fedbroker.text import printable

__all__ = ["Unmasking", "refused_step", "too_few"]

Unmasking: TypeAlias = Literal["survivors", "unmask"]
"""The coordinator's steps that remove masks."""

_REFUSED: Final = {
    "sharing": "share the stage",
    "survivors": "sign who takes part",
    "unmask": "send its shares",
}
_DONE: Final[Mapping[Unmasking, str]] = {"survivors": "signed who takes part", "unmask": "sent their shares"}


def refused_step(refusal: Refusal) -> MaskingError:
    """Return the error of a silo that refused a step; its text comes from the silo."""
    what = f"it refused to {_REFUSED[refusal.step]}: {printable(refusal.reason)}"
    return MaskingError(what, hint=printable(refusal.hint))


def too_few(
    session: str, stage: int, step: Unmasking, lost: Mapping[str, MaskingError | None], answered: int, spare: int
) -> FedbrokerError:
    """Return the error of a stage whose masks cannot be removed.

    Args:
        session: the session's id.
        stage: the stage's number.
        step: the step that too few silos have answered.
        lost: the silos that have not answered it, each with its refusal or its invalid message, if it has sent one.
        answered: number of silos that have answered.
        spare: number of silos that need not.

    Returns:
        ``SiloError`` if more than these have refused or sent what is invalid; ``StragglerTimeout`` if others are late.
    """
    reasons = {silo: error for silo, error in lost.items() if error is not None}
    given = "; ".join(f"silo {silo!r}: {error.what}" for silo, error in reasons.items())
    missing = ", ".join(map(repr, lost)) + (f" ({given})" if given else "")
    wanted = answered + len(lost) - spare
    what = (
        f"the masks of client stage {stage} were not removed: {answered} silos have {_DONE[step]}, {wanted} are "
        f"needed, and these have not: {missing}"
    )
    error: FedbrokerError
    if len(reasons) > spare:
        silo, first = next(iter(reasons.items()))
        error = SiloError(silo, what, stage=stage, session=session, hint=first.hint)
    else:
        hint = "nothing was learnt of their values; call again, and see why these silos were lost"
        error = StragglerTimeout(what, silos=tuple(lost), stage=stage, session=session, hint=hint)
    error.retryable = True  # another attempt asks the silos that are present by then
    return error
