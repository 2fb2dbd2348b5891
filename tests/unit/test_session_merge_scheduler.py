"""The order of merges, and the bound on buffered replies, for any order of arrival."""

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
    """Return the first slots that have answered."""
    first = next((at for at, silo in enumerate(SLOTS) if silo not in there), len(SLOTS))
    return SLOTS[:first]


@given(orders)
def test_small_results_are_merged_in_membership_order(arrivals):
    scheduler = MergeScheduler(room=1000)
    handed = []
    for at, silo in enumerate(arrivals):
        scheduler.here(silo, 10)
        handed += scheduler.due(settled(arrivals[: at + 1]))
    assert handed == list(SLOTS)
    assert scheduler.merge_order(SLOTS) == "membership"


@given(orders, sizes)
def test_each_result_is_merged_once_and_few_are_buffered(arrivals, size):
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
def test_merging_by_arrival_buffers_nothing(arrivals):
    scheduler = MergeScheduler("arrival")
    for silo in arrivals:
        scheduler.here(silo, 10)
        assert scheduler.due(()) == [silo]
    assert scheduler.merge_order(SLOTS) == ("membership" if list(arrivals) == list(SLOTS) else "arrival")


@given(orders, sizes, st.randoms())
def test_every_silo_sends_and_outstanding_bytes_are_bounded(arrivals, size, random):
    """Let silos announce large results, send them on request, and be merged, in any order of events."""
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


def test_first_silo_in_order_sends_first():
    scheduler = MergeScheduler()
    for silo in "hgfedcba":
        scheduler.announced(silo, 10)
    assert scheduler.turns(slot) == ["a", "b"]
    scheduler.here("a", 10)
    assert scheduler.turns(slot) == ["c"]


def test_merging_by_arrival_lets_the_first_request_send_first():
    scheduler = MergeScheduler("arrival")
    for silo in "hgf":
        scheduler.announced(silo, 10)
    assert scheduler.turns(slot) == ["h", "g"]


@pytest.mark.parametrize("sending", [True, False])
def test_dropped_silo_frees_its_room(sending):
    scheduler = MergeScheduler()
    for silo in "abc":
        scheduler.announced(silo, 10)
    if sending:
        scheduler.turns(slot)
    scheduler.gone("a")
    assert "c" in scheduler.turns(slot)


def test_result_above_the_limit_is_merged_alone():
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
def test_unrequested_results_of_all_silos_fit(silos, least):
    most = unasked(silos, least)
    if silos <= AT_ONCE:
        assert most == 0  # any number
    else:
        assert most == least or (most > least and silos * most <= ROOM)
