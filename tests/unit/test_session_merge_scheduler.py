"""The order in which answers are merged, and how much of them is held, whatever the order in which they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.session.merge_scheduler import AT_ONCE, ROOM, MergeScheduler, unasked

SLOTS = tuple("abcdefgh")
slot = SLOTS.index
sizes = st.fixed_dictionaries(dict.fromkeys(SLOTS, st.integers(1, 60)))
orders = st.permutations(SLOTS)


def settled(there):
    """Of the slots the first ones that have answered."""
    first = next((at for at, silo in enumerate(SLOTS) if silo not in there), len(SLOTS))
    return SLOTS[:first]


@given(orders)
def test_what_fits_is_handed_on_in_membership_order(arrivals):
    scheduler = MergeScheduler(room=1000)
    handed = []
    for at, silo in enumerate(arrivals):
        scheduler.here(silo, 10)
        handed += scheduler.due(settled(arrivals[: at + 1]))
    assert handed == list(SLOTS)
    assert scheduler.merge_order(SLOTS) == "membership"


@given(orders, sizes)
def test_each_is_handed_on_once_and_little_is_held(arrivals, size):
    scheduler = MergeScheduler(room=100)
    handed = []
    for at, silo in enumerate(arrivals):
        scheduler.here(silo, size[silo])
        handed += scheduler.due(settled(arrivals[: at + 1]))
        assert sum(size[one] for one in arrivals[: at + 1] if one not in handed) < 100
    assert sorted(handed) == list(SLOTS)
    assert handed == scheduler.handed
    assert scheduler.merge_order(SLOTS) == ("membership" if handed == list(SLOTS) else "arrival")


@given(orders)
def test_by_arrival_nothing_is_held(arrivals):
    scheduler = MergeScheduler("arrival")
    for silo in arrivals:
        scheduler.here(silo, 10)
        assert scheduler.due(()) == [silo]
    assert scheduler.merge_order(SLOTS) == ("membership" if list(arrivals) == list(SLOTS) else "arrival")


@given(orders, sizes, st.randoms())
def test_all_get_their_turn_and_what_is_outstanding_is_bounded(arrivals, size, random):
    """Silos announce large results, send when they are told to, and are merged in any order of events."""
    scheduler = MergeScheduler(room=100)
    to_come, sending, merging, there, outstanding = list(arrivals), [], [], set(), set()
    while to_come or sending or merging or len(there) < len(SLOTS):
        happens = random.choice(
            [what for what, some in (("ask", to_come), ("here", sending), ("merged", merging)) if some]
        )
        if happens == "ask":
            scheduler.announced(silo := to_come.pop(0), size[silo])
        elif happens == "here":
            silo = sending.pop(random.randrange(len(sending)))
            there.add(silo)
            scheduler.here(silo, size[silo])
            merging += scheduler.due(settled(there))
        else:
            silo = merging.pop(0)
            outstanding.discard(silo)
            scheduler.merged(silo)
        turns = scheduler.turns(slot)
        sending += turns
        outstanding |= set(turns)
        assert len(sending) <= AT_ONCE
        assert sum(size[silo] for silo in outstanding) < 100 + max(size.values())
    assert sorted(scheduler.handed) == list(SLOTS)


def test_who_comes_first_in_the_order_sends_first():
    scheduler = MergeScheduler()
    for silo in "hgfedcba":
        scheduler.announced(silo, 10)
    assert scheduler.turns(slot) == ["a", "b"]
    scheduler.here("a", 10)
    assert scheduler.turns(slot) == ["c"]


def test_by_arrival_who_asks_first_sends_first():
    scheduler = MergeScheduler("arrival")
    for silo in "hgf":
        scheduler.announced(silo, 10)
    assert scheduler.turns(slot) == ["h", "g"]


@pytest.mark.parametrize("sending", [True, False])
def test_a_silo_that_is_gone_makes_room(sending):
    scheduler = MergeScheduler()
    for silo in "abc":
        scheduler.announced(silo, 10)
    if sending:
        scheduler.turns(slot)
    scheduler.gone("a")
    assert "c" in scheduler.turns(slot)


def test_one_that_is_larger_than_the_room_is_merged_alone():
    scheduler = MergeScheduler(room=100)
    scheduler.announced("a", 500)
    scheduler.announced("b", 500)
    assert scheduler.turns(slot) == ["a"]
    scheduler.here("a", 500)
    assert scheduler.due(settled({"a"})) == ["a"]
    assert scheduler.turns(slot) == []
    scheduler.merged("a")
    assert scheduler.turns(slot) == ["b"]


@given(st.integers(1, 10_000), st.integers(1, 64 << 20))
def test_what_all_send_unasked_fits(silos, least):
    most = unasked(silos, least)
    if silos <= AT_ONCE:
        assert most == 0  # any number
    else:
        assert most == least or (most > least and silos * most <= ROOM)
