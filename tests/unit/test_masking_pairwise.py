"""Masks over all members cancel in their sum, and a silo masks once and for whom it knows."""

from __future__ import annotations

import numpy as np
import pytest

from fedbroker.errors import MaskingError
from fedbroker.masking.members import MaskKey, Member, Members
from fedbroker.masking.pairwise import add
from fedbroker.masking.rings import Ring
from fedbroker.trust import Identity
from tests.support.masking import COHORT, Silos, elements, occasion, plain, summed, values


def masked(silos, members, where, size=7):
    found = {}
    for member in members.all:
        found[member.silo] = elements(plain(member.silo, size))
        silos.mask(member.silo, found[member.silo], members, where)
    return found


@pytest.mark.parametrize("count", [3, 8, 32])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_masks_cancel_in_the_sum_over_all(count, size):
    silos = Silos(count)
    parts = list(masked(silos, silos.members, occasion(silos.members), size).values())
    total = parts[0]
    for part in parts[1:]:
        add(total, part)
    assert values(total) == summed(silos.names, size)


def test_values_without_one_are_noise():
    """The sum over all but one silo, of zeros, passes the same test of its bits as random ones."""
    silos = Silos(5)
    parts = {name: [(Ring(8), np.zeros(4096, np.uint64))] for name in silos.names}
    for name, part in parts.items():
        silos.mask(name, part, silos.members, occasion(silos.members))
    total = parts.pop("s00")
    for part in list(parts.values())[:-1]:
        add(total, part)
    ones = int(np.unpackbits(total[0][1].view(np.uint8)).sum())
    bits = 64 * 4096
    assert abs(ones - bits / 2) < 5 * (bits / 4) ** 0.5
    add(total, parts["s04"])
    assert not total[0][1].any()


def test_each_occasion_has_masks_of_its_own():
    silos = Silos(3)
    seen = set()
    for session, stage, work in [("a", 1, b"x"), ("b", 1, b"x"), ("a", 3, b"x")]:
        part = [(Ring(8), np.zeros(4, np.uint64))]
        where = occasion(silos.members, session, stage, work)
        silos.mask("s00", part, silos.members, where)
        seen.add(part[0][1].tobytes())
    assert len(seen) == 3


@pytest.mark.parametrize("work", [b"work", b"other work"])
def test_a_stage_is_masked_once(work):
    silos = Silos(3)
    silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members))
    again = elements(plain("s00"))
    with pytest.raises(MaskingError, match="masked for this stage before"):
        silos.mask("s00", again, silos.members, occasion(silos.members, work=work))
    assert values(again) == [array.tolist() for array in plain("s00")]


def test_a_restarted_silo_has_another_key():
    first, second = Silos(3), Silos(3)
    with pytest.raises(MaskingError, match="present mask key"):
        second.mask("s00", elements(plain("s00")), first.members, occasion(first.members))


def test_an_invented_silo_is_refused_by_name():
    silos = Silos(3)
    invented = Member.signed(COHORT, "s99", "i1", MaskKey().public, Identity(b"x" * 32))
    members = Members((*silos.members.all[:2], invented))
    with pytest.raises(MaskingError, match="'s99' is not in the roster"):
        silos.mask("s00", elements(plain("s00")), members, occasion(members))


@pytest.mark.parametrize("cohort", [COHORT, "banks"])
def test_a_mask_key_that_its_silo_has_not_signed_is_refused(cohort):
    silos = Silos(3)
    identity = silos.identities["s02"] if cohort == "banks" else Identity(b"x" * 32)
    forged = Member.signed(cohort, "s02", "i1", MaskKey().public, identity)
    members = Members((*silos.members.all[:2], forged))
    with pytest.raises(MaskingError, match="'s02' has not signed its mask key"):
        silos.mask("s00", elements(plain("s00")), members, occasion(members))


def test_too_few_members_are_refused():
    silos = Silos(4, min_members=4)
    few = silos.members_of(silos.names[:3])
    with pytest.raises(MaskingError, match="over 3 silos with clients, where this silo wants 4"):
        silos.mask("s00", elements(plain("s00")), few, occasion(few))
    with pytest.raises(MaskingError, match="over 2 silos"):
        silos.members_of(silos.names[:2])


def test_only_silos_with_clients_hide_each_other():
    silos = Silos(5)
    with pytest.raises(MaskingError, match="over 2 silos with clients, where this silo wants 3"):
        silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members), {"s00", "s01"})
    with pytest.raises(MaskingError, match="over 2 silos with clients"):  # a contributor has to be a member
        silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members), {"s00", "s01", "s99"})
    silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members), {"s00", "s01", "s02"})
    silos.mask("s04", elements(plain("s04")), silos.members, occasion(silos.members), {"s00", "s01"})


def test_a_check_leaves_the_occasion_free():
    silos = Silos(3)
    own, where, everyone = silos.masking["s00"], occasion(silos.members), set(silos.names)
    own.check(silos.members, where, silos.roster, everyone)
    own.check(silos.members, where, silos.roster, everyone)
    silos.mask("s00", elements(plain("s00")), silos.members, where)
    with pytest.raises(MaskingError, match="masked for this stage before"):
        own.check(silos.members, where, silos.roster, everyone)


def test_occasions_are_bounded_and_never_forgotten(monkeypatch):
    monkeypatch.setattr("fedbroker.masking.silo.MAX_OCCASIONS", 3)
    silos = Silos(3)
    for stage in (1, 2, 3):
        silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members, stage=stage))
    with pytest.raises(MaskingError, match="used its mask key for 3 sums"):
        silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members, stage=4))
    with pytest.raises(MaskingError, match="masked for this stage before"):
        silos.mask("s00", elements(plain("s00")), silos.members, occasion(silos.members, stage=1))


def test_members_that_are_not_distinct_and_sorted_are_refused():
    silos = Silos(3)
    one, two, three = silos.members.all
    for wrong in [(one, three, two), (one, one, two), (one, two, Member("s02", "i1", two.mask_key, two.signature))]:
        with pytest.raises(MaskingError, match="not distinct and sorted"):
            Members(wrong)


def test_an_occasion_for_other_members_is_refused():
    silos = Silos(4)
    few = silos.members_of(silos.names[:3])
    with pytest.raises(MaskingError, match="for other members"):
        silos.mask("s00", elements(plain("s00")), silos.members, occasion(few))


def test_values_of_another_size_are_refused_by_the_sum():
    with pytest.raises(MaskingError, match="another size"):
        add(elements(plain("a", 3)), elements(plain("b", 4)))


def test_secrets_are_not_shown():
    key = MaskKey(b"k" * 32)
    assert key.reveal() == b"k" * 32
    assert "6b6b" not in repr(key)
