"""Admission of silos to a cohort, and the delay of rejected ones."""

from __future__ import annotations

import pytest

from fedbroker.session.roster import admit
from fedbroker.wire.messages import Accepted, Announce, Rejected


def answer(version="0.1.0", ours="0.1.3", members=0, max_silos=10):
    return admit(
        Announce("c", "ewr", "i", 5.0, version=version), "k", version=ours, members=members, max_silos=max_silos
    )


@pytest.mark.parametrize("version", ["0.1.0", "0.1.99", "", "source"])
def test_matching_or_missing_version_is_admitted(version):
    assert answer(version) == Accepted("k", "ewr", "i")


@pytest.mark.parametrize("version", ["0.2.0", "1.0.0"])
def test_other_version_series_is_rejected_permanently(version):
    said = answer(version)
    assert isinstance(said, Rejected)
    assert said.permanent
    assert version in said.reason


def test_full_roster_rejects_temporarily():
    assert isinstance(answer(members=9), Accepted)
    said = answer(members=10)
    assert isinstance(said, Rejected)
    assert not said.permanent
    assert said.retry_after[1] < answer("2.0.0").retry_after[0]
