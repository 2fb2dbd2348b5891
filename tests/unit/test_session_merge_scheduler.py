"""The order in which replies are merged, and the bound on buffered ones, for any order of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.session.merge_scheduler import ROOM, UPLOADS, MergeScheduler, upload_allowance

SLOTS = tuple("abcdefgh")
slot = SLOTS.index
sizes = st.fixed_dictionaries(dict.fromkeys(SLOTS, st.integers(1, 60)))
orders = st.permutations(SLOTS)
ENOUGH = (1, 0)
"""A single reply is a batch."""


def settled(present):
    """Return the first slots that have all answered."""
    first = next((at for at, silo in enumerate(SLOTS) if silo not in present), len(SLOTS))
    return SLOTS[:first]


def arrive(scheduler, silo, size, present=()):
    scheduler.arrive(silo, [bytes(size)], size)
    scheduler.advance(settled(present))


def taken(scheduler):
    """Return the silos whose replies are ready, after taking them one by one."""
    silos = []
    while batch := scheduler.take_batch(*ENOUGH):
        silos += [reply.silo for reply in batch]
    return silos


def uploading(uploads):
    return [silo for silo, upload in uploads.items() if upload.granted.is_set()]


@given(orders)
def test_replies_that_fit_are_merged_in_membership_order(arrivals):
    scheduler = MergeScheduler(room=1000)
    merged = []
    for at, silo in enumerate(arrivals):
        arrive(scheduler, silo, 10, arrivals[: at + 1])
        merged += taken(scheduler)
    assert merged == list(SLOTS)
    assert scheduler.merge_order(SLOTS) == "membership"


@given(orders, sizes)
def test_each_reply_is_merged_once_and_little_is_held(arrivals, size):
    scheduler = MergeScheduler(room=100)
    merged = []
    for at, silo in enumerate(arrivals):
        arrive(scheduler, silo, size[silo], arrivals[: at + 1])
        merged += taken(scheduler)
        assert sum(size[one] for one in arrivals[: at + 1] if one not in merged) < 100
    assert sorted(merged) == list(SLOTS)
    assert merged == scheduler.passed
    assert scheduler.merge_order(SLOTS) == ("membership" if merged == list(SLOTS) else "arrival")


@given(orders)
def test_nothing_is_held_if_replies_are_merged_by_arrival(arrivals):
    scheduler = MergeScheduler("arrival")
    for silo in arrivals:
        arrive(scheduler, silo, 10)
        assert taken(scheduler) == [silo]
    assert scheduler.merge_order(SLOTS) == ("membership" if list(arrivals) == list(SLOTS) else "arrival")


@given(orders, sizes, st.randoms())
def test_every_silo_may_upload_in_the_end_and_outstanding_bytes_are_bounded(arrivals, size, random):
    """Let silos announce large results, upload on request, and be merged, in any order of events."""
    scheduler = MergeScheduler(room=100)
    to_come, uploads, merging, present, outstanding = list(arrivals), {}, [], set(), set()
    while to_come or uploads or merging or len(present) < len(SLOTS):
        running = uploading(uploads)
        event = random.choice(
            [name for name, possible in (("announce", to_come), ("arrive", running), ("merge", merging)) if possible]
        )
        if event == "announce":
            silo = to_come.pop(0)
            uploads[silo] = scheduler.announce(silo, slot(silo), size[silo])
        elif event == "arrive":
            del uploads[silo := random.choice(running)]
            present.add(silo)
            scheduler.arrive(silo, [bytes(size[silo])], size[silo])
            scheduler.advance(settled(present))
            while batch := scheduler.take_batch(*ENOUGH):
                merging.append(batch)
        else:
            batch = merging.pop(0)
            outstanding -= {reply.silo for reply in batch}
            scheduler.release(batch)
        outstanding |= set(uploading(uploads))
        assert len(uploading(uploads)) <= UPLOADS
        assert sum(size[silo] for silo in outstanding) == scheduler.outstanding < 100 + max(size.values())
    assert sorted(scheduler.passed) == list(SLOTS)
    assert scheduler.outstanding == 0


def test_the_first_in_membership_order_uploads_first():
    scheduler = MergeScheduler()
    uploads = {}
    for silo in "hg":  # both upload: the others wait
        uploads[silo] = scheduler.announce(silo, slot(silo), 10)
    for silo in "fedcba":
        uploads[silo] = scheduler.announce(silo, slot(silo), 10)
    assert uploading(uploads) == ["h", "g"]
    arrive(scheduler, "h", 10)
    arrive(scheduler, "g", 10)
    assert uploading(uploads) == ["h", "g", "b", "a"]
    arrive(scheduler, "a", 10, "a")
    assert uploading(uploads) == ["h", "g", "c", "b", "a"]


def test_the_first_that_announces_uploads_first_if_merged_by_arrival():
    scheduler = MergeScheduler("arrival")
    uploads = {silo: scheduler.announce(silo, slot(silo), 10) for silo in "hgfa"}
    assert uploading(uploads) == ["h", "g"]
    arrive(scheduler, "h", 10)
    assert uploading(uploads) == ["h", "g", "f"]


@pytest.mark.parametrize("gone", ["a", "c"])
def test_a_silo_that_is_dropped_makes_room(gone):
    scheduler = MergeScheduler()
    uploads = {silo: scheduler.announce(silo, slot(silo), 10) for silo in "abcd"}
    assert uploading(uploads) == ["a", "b"]
    scheduler.drop(gone)
    if gone == "c":
        scheduler.drop("a")
    scheduler.advance(())
    assert uploading(uploads) == (["a", "b", "c"] if gone == "a" else ["a", "b", "d"])


def test_a_silo_that_announces_again_waits_for_its_turn_again():
    scheduler = MergeScheduler(room=100)
    first, other = scheduler.announce("a", 0, 100), scheduler.announce("b", 1, 100)
    assert (first.granted.is_set(), other.granted.is_set()) == (True, False)
    again = scheduler.announce("a", 0, 100)  # it was lost on the way
    assert again.granted.is_set()
    assert scheduler.outstanding == 100
    assert not other.granted.is_set()


def test_a_reply_that_is_larger_than_the_room_is_merged_alone():
    scheduler = MergeScheduler(room=100)
    uploads = {silo: scheduler.announce(silo, slot(silo), 500) for silo in "ab"}
    assert uploading(uploads) == ["a"]
    arrive(scheduler, "a", 500, "a")
    (reply,) = scheduler.take_batch(*ENOUGH)
    assert reply.silo == "a"
    assert uploading(uploads) == ["a"]
    scheduler.release([reply])
    assert uploading(uploads) == ["a", "b"]


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 6), st.integers(1, 100))
def test_batches_are_full_until_all_have_arrived(sizes, most, large):
    scheduler = MergeScheduler("arrival", room=10_000)
    batches = []
    for number, size in enumerate(sizes):
        scheduler.arrive(str(number), [b""], size)
        scheduler.advance(())
        while batch := scheduler.take_batch(most, large):
            batches.append(batch)
            assert len(batch) == most or sum(reply.size for reply in batch) + 50 > large
    assert scheduler.take_batch(most, large) is None
    scheduler.complete()
    while batch := scheduler.take_batch(most, large):
        batches.append(batch)
    assert scheduler.take_batch(most, large) == []
    assert [reply.silo for batch in batches for reply in batch] == [str(number) for number in range(len(sizes))]
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or sum(reply.size for reply in batch) <= large
        scheduler.release(batch)
    assert scheduler.outstanding == 0


def test_few_replies_are_taken_at_once_unless_merging_has_begun():
    scheduler = MergeScheduler("arrival")
    assert scheduler.take_few(3, 100) == []
    for silo in "ab":
        arrive(scheduler, silo, 10)
    assert [reply.silo for reply in scheduler.take_few(3, 100)] == ["a", "b"]
    assert scheduler.take_batch(3, 100) == []  # the merger ends
    begun = MergeScheduler("arrival")
    for silo in "abcd":
        arrive(begun, silo, 10)
    assert len(begun.take_batch(3, 100)) == 3
    assert begun.take_few(3, 100) == []


@pytest.mark.parametrize("discards", [False, True])
def test_replies_without_partials_and_discarded_ones_take_no_memory(discards):
    scheduler = MergeScheduler("arrival")
    arrive(scheduler, "a", 10)
    scheduler.arrive("b", [], 10)
    if discards:
        scheduler.discard()
    scheduler.advance(())
    arrive(scheduler, "c", 10)
    assert scheduler.passed == ["a", "b", "c"]
    assert taken(scheduler) == ([] if discards else ["a", "c"])
    assert scheduler.outstanding == (0 if discards else 20)


@given(st.integers(1, 10_000), st.integers(1, 64 << 20))
def test_uploads_without_a_turn_fit_together(silos, least):
    most = upload_allowance(silos, least)
    if silos <= UPLOADS:
        assert most == 0  # any number
    else:
        assert most == least or (most > least and silos * most <= ROOM)
