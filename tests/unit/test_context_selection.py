"""Selection of members: by rule, by function, by the arguments' draw, and at most ``max_silos``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.context.selection import Requirements, choose, pool_of
from fedbroker.context.settings import Settings
from fedbroker.context.values.data import Draw
from fedbroker.errors import UsageError
from fedbroker.session.roster import Member
from tests.support.context_settings import context_settings

THERE = tuple(Member(name, "1") for name in ("bos", "ewr", "jfk", "lga"))


def settings(**options):
    return Settings(url="amqp://localhost/", cohort="c", **context_settings(**{"min_silos": 1, **options}))


def names(members):
    return [member.name for member in members]


@given(st.integers(1, 6), st.sampled_from(["all", "random"]))
def test_at_most_max_silos_in_order(most, select):
    chosen = choose(THERE, Requirements(), settings(max_silos=most, select=select))
    assert len(chosen) == min(most, 4)
    assert chosen == [member for member in THERE if member in chosen]
    if select == "all":
        assert chosen == list(THERE[:most])


def test_random_selection_draws_every_silo_eventually():
    drawn = {choose(THERE, Requirements(), settings(max_silos=1, select="random"))[0].name for _ in range(200)}
    assert drawn == set(names(THERE))


def test_eligible_is_applied_before_select():
    rule = settings(eligible=lambda silo: silo.name > "c", max_silos=2)
    assert names(choose(THERE, Requirements(), rule)) == ["ewr", "jfk"]
    pool = pool_of(Requirements(), settings(min_silos=2, eligible=lambda silo: silo.name > "c"))
    assert pool.at_least == 2
    assert [pool.includes(member) for member in THERE] == [False, True, True, True]


def test_select_function_chooses():
    two = settings(select=lambda silos: [silos[-1], silos[0]])
    assert names(choose(THERE, Requirements(), two)) == ["bos", "lga"]
    by_name = settings(select=lambda silos: ["jfk"])
    assert names(choose(THERE, Requirements(), by_name)) == ["jfk"]


def test_select_function_with_unknown_or_too_few_silos_is_an_error():
    with pytest.raises(UsageError, match="mallory"):
        choose(THERE, Requirements(), settings(select=lambda silos: ["mallory"]))
    with pytest.raises(UsageError, match="1 silo, but min_silos is 2"):
        choose(THERE, Requirements(), settings(min_silos=2, select=lambda silos: silos[:1]))


def test_draw_of_the_arguments_is_applied_before_select():
    drawn = choose(THERE, Requirements(Draw(2, 4)), settings(select=lambda silos: []))
    assert len(drawn) == 2
    with pytest.raises(UsageError, match="max_silos is 1"):
        pool_of(Requirements(Draw(2, 4)), settings(max_silos=1))
