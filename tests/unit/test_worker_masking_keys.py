"""Mask keys: renewed twice a day, and kept while sessions may use them."""

from __future__ import annotations

import pytest
from fedbroker_worker.errors import SessionLost
from fedbroker_worker.masking.keys import KEPT, RENEWED, MaskKeys

from fedbroker.masking.members import Member, Members
from fedbroker.trust import Identity
from tests.support.masking import COHORT, Silos

DAY = 86_400.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def keys(clock):
    return MaskKeys(COHORT, "a", "i1", Identity.generate(), 3, clock=clock)


def members(member):
    return Members((member, *Silos(3).members.all))


def test_key_is_renewed_at_least_daily(keys, clock):
    first = keys.member
    clock.now = RENEWED - 1
    assert keys.member == first
    clock.now = RENEWED
    second = keys.member
    assert second.mask_key != first.mask_key
    assert second.incarnation == first.incarnation
    assert RENEWED <= DAY


def test_earlier_key_is_kept_while_a_session_may_use_it(keys, clock):
    first = keys.member
    clock.now = RENEWED
    assert keys.member != first
    assert keys.of(members(first)).member == first
    clock.now = KEPT
    _ = keys.member
    with pytest.raises(SessionLost, match="a mask key that this silo no longer has"):
        keys.of(members(first))


def test_silo_that_is_no_member(keys):
    with pytest.raises(SessionLost, match="is not among the members"):
        keys.of(Silos(3).members)


def test_own_name_with_the_key_of_another(keys):
    stranger = Member.signed(COHORT, "a", "i1", b"x" * 32, Identity.generate())
    with pytest.raises(SessionLost, match="no longer has"):
        keys.of(members(stranger))
