"""Who takes part in an invocation: all that are there, or those that its data handles draw.

Plain functions; imports the session's roster and the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedbroker.context.data import Draw, SiloData
from fedbroker.errors import UsageError
from fedbroker.session.roster import Member

__all__ = ["Wanted", "wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an invocation asks of its membership.

    Attributes:
        draw: which of the eligible silos take part; None for all silos that there are.
        sources: a drawn silo has these.
    """

    draw: Draw | None = None
    sources: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """How many eligible silos there must be."""
        return self.draw.count if self.draw is not None else 0

    def eligible(self, member: Member) -> bool:
        """Whether the silo has the data."""
        return self.sources <= member.sources.keys()

    def choose(self, members: Sequence[Member]) -> Sequence[Member]:
        """Those that take part, in the order given."""
        if self.draw is None:
            return members
        drawn = self.draw.of(member.name for member in members if self.eligible(member))
        return [member for member in members if member.name in drawn]


def wanted(arguments: Iterable[object]) -> Wanted:
    """What a call's arguments ask for.

    Raises:
        UsageError: two handles draw differently.
    """
    handles = [value for value in arguments if isinstance(value, SiloData) and value.draw is not None]
    draws = {handle.draw for handle in handles}
    if len(draws) > 1:
        raise UsageError(
            f"the data handles {', '.join(sorted({handle.name for handle in handles}))} draw different silos",
            hint="select from data sources with the same seed, and the same number of silos",
        )
    return Wanted(next(iter(draws), None), frozenset(handle.name for handle in handles))
