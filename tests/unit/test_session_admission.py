"""Who is taken into a cohort, and when those who are not may ask again."""

from __future__ import annotations

import pytest

from fedbroker.session.roster import admit
from fedbroker.wire.messages import Accepted, Announce, Rejected


def answer(version="0.1.0", ours="0.1.3", members=0, most=10):
    return admit(Announce("c", "ewr", "i", 5.0, version=version), "k", version=ours, members=members, most=most)


@pytest.mark.parametrize("version", ["0.1.0", "0.1.99", "", "source"])
def test_a_fitting_version_or_none_is_taken_in(version):
    assert answer(version) == Accepted("k", "ewr", "i")


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0"])
def test_another_series_is_never_taken_in(version):
    said = answer(version)
    assert isinstance(said, Rejected)
    assert said.permanent
    assert version in said.reason


def test_a_full_roster_is_not_now_at_the_very_edge():
    assert isinstance(answer(members=9), Accepted)
    said = answer(members=10)
    assert isinstance(said, Rejected)
    assert not said.permanent
    assert said.retry_after[1] < answer("2.0.0").retry_after[0]
