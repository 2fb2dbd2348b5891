"""Routing of blobs: in the work item, broadcast, or to one silo."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from fedbroker.session.roster import BlobCacheIndex, Member, ship
from fedbroker.wire.limits import DEFAULT_LIMITS

MEMBERS = [Member(name, "1") for name in ("ewr", "jfk", "lga")]
LIMITS = dataclasses.replace(DEFAULT_LIMITS, inline_blob=100, inline_total=150)


def needs(**wanted):
    return {m.name: tuple(wanted.get(m.name, ())) for m in MEMBERS}


def test_small_blobs_are_inline_large_ones_broadcast_and_own_ones_direct():
    sizes = {"small": 10, "model": 5000, "mine": 5000}
    shipment = ship(
        needs(ewr=["small", "model", "mine"], jfk=["model"], lga=["model"]), sizes, MEMBERS, BlobCacheIndex(), LIMITS
    )
    assert shipment.inline["ewr"] == ["small"]
    assert shipment.broadcast == ["model"]
    assert shipment.direct == {"ewr": ["mine"], "jfk": [], "lga": []}
    assert shipment.bulk == {"ewr": ["model", "mine"], "jfk": ["model"], "lga": ["model"]}


def test_inline_blob_of_one_silo_is_not_expected_as_a_bulk_message():
    sizes = {"small": 90, "other": 80}
    shipment = ship(
        needs(ewr=["small"], jfk=["other", "small"], lga=["other", "small"]),
        sizes,
        MEMBERS,
        BlobCacheIndex(),
        LIMITS,
    )
    assert shipment.inline == {"ewr": ["small"], "jfk": ["other"], "lga": ["other"]}
    assert shipment.broadcast == ["small"]
    assert shipment.bulk == {"ewr": [], "jfk": ["small"], "lga": ["small"]}


def test_cached_blob_is_sent_again_only_after_a_restart():
    known = BlobCacheIndex()
    known.add(MEMBERS[0], ["model"])
    wanted = needs(ewr=["model"])
    assert ship(wanted, {"model": 5000}, MEMBERS, known, LIMITS).direct["ewr"] == []
    reborn = [Member("ewr", "2"), *MEMBERS[1:]]
    assert ship(wanted, {"model": 5000}, reborn, known, LIMITS).direct["ewr"] == ["model"]
    known.forget(MEMBERS[0], ["model"])
    assert ship(wanted, {"model": 5000}, MEMBERS, known, LIMITS).direct["ewr"] == ["model"]


blobs = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 300), min_size=1, max_size=8)


@given(blobs, st.data())
def test_each_silo_gets_each_missing_blob_exactly_once(sizes, data):
    wanted = {m.name: data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True)) for m in MEMBERS}
    known = BlobCacheIndex()
    for member in MEMBERS:
        known.add(member, data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True)))
    shipment = ship(needs(**wanted), sizes, MEMBERS, known, LIMITS)
    for member in MEMBERS:
        lacking = {digest for digest in wanted[member.name] if not known.has(member, digest)}
        inline = set(shipment.inline[member.name])
        bulk = set(shipment.bulk[member.name])
        assert inline | (bulk & lacking) == lacking
        assert bulk - lacking <= set(shipment.broadcast) & set(wanted[member.name])
        assert not inline & bulk
        assert sum(sizes[digest] for digest in inline) <= LIMITS.inline_total
