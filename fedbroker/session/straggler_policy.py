"""Straggler policy: the number of silos that must answer a stage, and the treatment of silos that do not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from fedbroker.errors import ConfigError
from fedbroker.session.merge_scheduler import MergeOrder

__all__ = ["Policy", "Stragglers"]

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
        merge_order: order in which replies are merged, see :data:`fedbroker.session.merge_scheduler.MergeOrder`.

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
        wanted = self.quorum if isinstance(self.quorum, int) else math.ceil(self.quorum * members - 1e-9)
        return min(max(1, wanted), members)
