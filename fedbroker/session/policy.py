"""What a session asks of its stages: how many silos must answer, and what becomes of those that do not.

Plain data; imports the errors only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from fedbroker.errors import ConfigError

__all__ = ["Policy", "Stragglers"]

Stragglers: TypeAlias = Literal["fail", "drop", "replace"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a client stage treats silos that do not answer.

    Attributes:
        stragglers: ``fail``: every silo must answer, and the first that cannot ends the stage. ``drop``: go on without,
            if the quorum answered. ``replace``: like ``drop``, and a late joiner gets the work item that the broker
            gave back.
        quorum: how many must answer where some may be missing: a number of silos, or a fraction (a float up to 1.0) of
            the session's membership, rounded up.
        grace: seconds after the quorum is reached when the stage closes, even if its time is not up; None waits for
            all until then.

    Raises:
        ConfigError: a value is out of range.
    """

    stragglers: Stragglers = "fail"
    quorum: int | float = 1.0
    grace: float | None = None

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

    def needed(self, members: int) -> int:
        """How many of so many must answer; never none, and never more than there are."""
        if self.stragglers == "fail":
            return members
        wanted = self.quorum if isinstance(self.quorum, int) else math.ceil(self.quorum * members - 1e-9)
        return min(max(1, wanted), members)
