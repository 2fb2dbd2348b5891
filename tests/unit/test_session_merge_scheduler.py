"""The order in which answers are merged, and how much of them is held, whatever the order in which they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.session.merge_scheduler import AT_ONCE, ROOM, Handover, unasked

SEATS = tuple("abcdefgh")
seat = SEATS.index
sizes = st.fixed_dictionaries(dict.fromkeys(SEATS, st.integers(1, 60)))
orders = st.permutations(SEATS)


def settled(there):
    """Of the seats the first ones that have answered."""
    first = next((at for at, silo in enumerate(SEATS) if silo not in there), len(SEATS))
    return SEATS[:first]


@given(orders)
def test_what_fits_is_handed_on_in_membership_order(arrivals):
    handover = Handover(room=1000)
    handed = []
    for at, silo in enumerate(arrivals):
        handover.here(silo, 10)
        handed += handover.due(settled(arrivals[: at + 1]))
    assert handed == list(SEATS)
    assert handover.merge_order(SEATS) == "membership"


@given(orders, sizes)
def test_each_is_handed_on_once_and_little_is_held(arrivals, size):
    handover = Handover(room=100)
    handed = []
    for at, silo in enumerate(arrivals):
        handover.here(silo, size[silo])
        handed += handover.due(settled(arrivals[: at + 1]))
        assert sum(size[one] for one in arrivals[: at + 1] if one not in handed) < 100
    assert sorted(handed) == list(SEATS)
    assert handed == handover.handed
    assert handover.merge_order(SEATS) == ("membership" if handed == list(SEATS) else "arrival")


@given(orders)
def test_by_arrival_nothing_is_held(arrivals):
    handover = Handover("arrival")
    for silo in arrivals:
        handover.here(silo, 10)
        assert handover.due(()) == [silo]
    assert handover.merge_order(SEATS) == ("membership" if list(arrivals) == list(SEATS) else "arrival")


@given(orders, sizes, st.randoms())
def test_all_get_their_turn_and_what_is_outstanding_is_bounded(arrivals, size, random):
    """Silos announce large results, send when they are told to, and are merged in any order of events."""
    handover = Handover(room=100)
    to_come, sending, merging, there, outstanding = list(arrivals), [], [], set(), set()
    while to_come or sending or merging or len(there) < len(SEATS):
        happens = random.choice(
            [what for what, some in (("ask", to_come), ("here", sending), ("merged", merging)) if some]
        )
        if happens == "ask":
            handover.announced(silo := to_come.pop(0), size[silo])
        elif happens == "here":
            silo = sending.pop(random.randrange(len(sending)))
            there.add(silo)
            handover.here(silo, size[silo])
            merging += handover.due(settled(there))
        else:
            silo = merging.pop(0)
            outstanding.discard(silo)
            handover.merged(silo)
        turns = handover.turns(seat)
        sending += turns
        outstanding |= set(turns)
        assert len(sending) <= AT_ONCE
        assert sum(size[silo] for silo in outstanding) < 100 + max(size.values())
    assert sorted(handover.handed) == list(SEATS)


def test_who_comes_first_in_the_order_sends_first():
    handover = Handover()
    for silo in "hgfedcba":
        handover.announced(silo, 10)
    assert handover.turns(seat) == ["a", "b"]
    handover.here("a", 10)
    assert handover.turns(seat) == ["c"]


def test_by_arrival_who_asks_first_sends_first():
    handover = Handover("arrival")
    for silo in "hgf":
        handover.announced(silo, 10)
    assert handover.turns(seat) == ["h", "g"]


@pytest.mark.parametrize("sending", [True, False])
def test_a_silo_that_is_gone_makes_room(sending):
    handover = Handover()
    for silo in "abc":
        handover.announced(silo, 10)
    if sending:
        handover.turns(seat)
    handover.gone("a")
    assert "c" in handover.turns(seat)


def test_one_that_is_larger_than_the_room_is_merged_alone():
    handover = Handover(room=100)
    handover.announced("a", 500)
    handover.announced("b", 500)
    assert handover.turns(seat) == ["a"]
    handover.here("a", 500)
    assert handover.due(settled({"a"})) == ["a"]
    assert handover.turns(seat) == []
    handover.merged("a")
    assert handover.turns(seat) == ["b"]


@given(st.integers(1, 10_000), st.integers(1, 64 << 20))
def test_what_all_send_unasked_fits(silos, least):
    most = unasked(silos, least)
    if silos <= AT_ONCE:
        assert most == 0  # any number
    else:
        assert most == least or (most > least and silos * most <= ROOM)
