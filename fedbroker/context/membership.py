"""The membership that an invocation's arguments ask for: all present silos, or the silos that its data handles draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedbroker.context.data import Draw, SiloData
from fedbroker.errors import UsageError
from fedbroker.session.roster import Member

__all__ = ["Wanted", "wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The requirements of an invocation on its membership.

    Attributes:
        draw: choice of the eligible silos that take part; None for all present silos.
        sources: data sources that a drawn silo must have.
    """

    draw: Draw | None = None
    sources: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """The number of eligible silos that must be present."""
        return self.draw.count if self.draw is not None else 0

    def eligible(self, member: Member) -> bool:
        """Return whether a silo has the data sources."""
        return self.sources <= member.sources.keys()

    def choose(self, members: Sequence[Member]) -> Sequence[Member]:
        """Return the members that take part, in the order given."""
        if self.draw is None:
            return members
        drawn = self.draw.of(member.name for member in members if self.eligible(member))
        return [member for member in members if member.name in drawn]


def wanted(arguments: Iterable[object]) -> Wanted:
    """Return the requirements of a call's arguments.

    Raises:
        UsageError: two handles draw different silos.
    """
    handles = [value for value in arguments if isinstance(value, SiloData) and value.draw is not None]
    draws = {handle.draw for handle in handles}
    if len(draws) > 1:
        raise UsageError(
            f"the data handles {', '.join(sorted({handle.name for handle in handles}))} draw different silos",
            hint="select from data sources with the same seed, and the same number of silos",
        )
    return Wanted(next(iter(draws), None), frozenset(handle.name for handle in handles))
