"""Membership of a session: all silos, or those that the data handles draw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedbroker
from fedbroker.context.selection import requirements_of
from fedbroker.context.values.data import Draw, SiloData
from fedbroker.errors import UsageError
from fedbroker.session.roster import Member
from fedbroker.wire.messages import Source

FLIGHTS = {"flights": Source(columns=())}


def members(*names, sources=FLIGHTS):
    return [Member(name, "1", sources) for name in names]


def drawn(count, seed, name="flights"):
    return SiloData(name, None, Draw(count, seed))


def test_all_silos_are_members_without_a_draw():
    everybody = members("ewr", "jfk")
    requirements = requirements_of([fedbroker.data("flights"), 3.0])
    assert (requirements.draw, requirements.choose(everybody)) == (None, everybody)


@given(st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=9), st.data())
def test_draw_has_its_size_is_repeatable_and_ordered(names, data):
    count = data.draw(st.integers(1, len(names)))
    seed = data.draw(st.integers(0, 2**63))
    there = members(*sorted(names))
    chosen = requirements_of([drawn(count, seed)]).choose(there)
    assert len(chosen) == count
    assert chosen == [member for member in there if member in chosen]
    assert chosen == requirements_of([drawn(count, seed)]).choose(there)


def test_only_silos_with_all_of_the_data_are_drawn():
    both = {"flights": Source(columns=()), "crews": Source(columns=())}
    there = [*members("ewr"), *members("jfk", sources=both), *members("lga", sources={})]
    requirements = requirements_of([drawn(1, 5), drawn(1, 5, "crews")])
    assert [member.name for member in requirements.choose(there)] == ["jfk"]
    assert [requirements.eligible(member) for member in there] == [False, True, False]


def test_handles_with_different_draws_are_refused():
    with pytest.raises(UsageError, match="crews, flights draw different silos"):
        requirements_of([drawn(1, 5), drawn(1, 6, "crews")])
