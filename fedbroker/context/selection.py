"""Selection of the present silos that take part in an invocation."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedbroker.context.settings import Settings
from fedbroker.context.values.data import Draw, SiloData
from fedbroker.errors import UsageError
from fedbroker.session.cohort import Pool
from fedbroker.session.roster import Member
from fedbroker.text import count_text

__all__ = ["Requirements", "choose", "pool_of", "requirements_of"]


@dataclass(frozen=True, slots=True)
class Requirements:
    """The requirements of an invocation on its membership.

    Attributes:
        draw: choice of the eligible silos that take part; None for all present silos.
        sources: data sources that a drawn silo must have.
    """

    draw: Draw | None = None
    sources: frozenset[str] = frozenset()

    def eligible(self, member: Member) -> bool:
        """Return whether a silo has the data sources."""
        return self.sources <= member.sources.keys()

    def choose(self, members: Sequence[Member]) -> Sequence[Member]:
        """Return the members that take part, in the order given."""
        if self.draw is None:
            return members
        drawn = self.draw.of(member.name for member in members if self.eligible(member))
        return [member for member in members if member.name in drawn]


def requirements_of(arguments: Iterable[object]) -> Requirements:
    """Return the requirements of a call's arguments.

    Raises:
        UsageError: two handles draw different silos.
    """
    draws: set[Draw] = set()
    sources: set[str] = set()
    for value in arguments:
        if isinstance(value, SiloData) and value.draw is not None:
            draws.add(value.draw)
            sources.add(value.name)
    if len(draws) > 1:
        raise UsageError(
            f"the data handles {', '.join(sorted(sources))} draw different silos",
            hint="select from data sources with the same seed, and the same number of silos",
        )
    return Requirements(next(iter(draws), None), frozenset(sources))


def pool_of(requirements: Requirements, settings: Settings) -> Pool | None:
    """Return the pool of silos that may take part, with the number of them that must be present; None for any silos.

    Raises:
        UsageError: the data handles draw more silos than may take part.
    """
    draw, rule, max_silos = requirements.draw, settings.options.eligible, settings.max_silos
    if draw is None and rule is None:
        return None
    at_least = settings.min_silos if draw is None else draw.count
    if draw is not None and max_silos is not None and draw.count > max_silos:
        raise UsageError(
            f"{count_text(draw.count, 'silo')} were selected, but max_silos is {max_silos}",
            hint="select fewer, or raise max_silos",
        )

    def includes(member: Member) -> bool:
        return requirements.eligible(member) and (rule is None or bool(rule(member)))

    return Pool(includes, at_least, ", ".join(sorted(requirements.sources)))


def choose(present: Sequence[Member], requirements: Requirements, settings: Settings) -> list[Member]:
    """Return the membership, sorted by name.

    Args:
        present: the present silos, sorted by name; enough of them are in the pool.
        requirements: requirements of the call's arguments; a draw takes precedence over ``select``.
        settings: ``eligible``, ``select`` and ``max_silos``.

    Raises:
        UsageError: ``select`` returned silos that it was not given, or fewer than ``min_silos``.
    """
    rule = settings.options.eligible
    candidates = list(present) if rule is None else [member for member in present if rule(member)]
    chosen = list(requirements.choose(candidates))
    if requirements.draw is not None:
        return chosen
    if callable(settings.options.select):
        return _by_function(chosen, settings)
    max_silos = settings.max_silos
    if settings.options.select == "random" and max_silos is not None and len(chosen) > max_silos:
        drawn = {member.name for member in random.sample(chosen, max_silos)}
        return [member for member in chosen if member.name in drawn]
    return chosen[:max_silos]


def _by_function(candidates: Sequence[Member], settings: Settings) -> list[Member]:
    assert callable(settings.options.select)
    offered = {member.name for member in candidates}
    selected = {getattr(member, "name", member) for member in settings.options.select(tuple(candidates))}
    if not selected <= offered:
        unknown = ", ".join(sorted(map(str, selected - offered)))
        raise UsageError(f"select returned silos that it was not given: {unknown}", hint="return some of its argument")
    chosen = [member for member in candidates if member.name in selected][: settings.max_silos]
    if len(chosen) < settings.min_silos:
        raise UsageError(
            f"select returned {count_text(len(chosen), 'silo')}, but min_silos is {settings.min_silos}",
            hint="return more of its argument, or lower min_silos",
        )
    return chosen
