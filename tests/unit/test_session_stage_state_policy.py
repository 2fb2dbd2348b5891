"""The number of silos that must answer, for each way to write the quorum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError
from fedbroker.session.stage_state import Policy


@given(st.integers(1, 50), st.floats(0.01, 1.0) | st.integers(1, 60), st.sampled_from(["drop", "replace"]))
def test_at_least_one_and_at_most_all(members, quorum, stragglers):
    needed = Policy(stragglers, quorum).needed(members)
    assert 1 <= needed <= members
    if isinstance(quorum, float):
        assert needed >= quorum * members - 1e-6
        assert needed - 1 < quorum * members


@pytest.mark.parametrize(
    ("quorum", "members", "needed"), [(0.8, 5, 4), (0.8, 10, 8), (0.5, 3, 2), (2, 5, 2), (9, 5, 5)]
)
def test_fractions_are_rounded_up(quorum, members, needed):
    assert Policy("drop", quorum).needed(members) == needed


def test_all_silos_must_answer_if_stragglers_fail():
    assert Policy("fail", 1).needed(7) == 7


@pytest.mark.parametrize("wrong", [{"quorum": 0}, {"quorum": 1.1}, {"quorum": True}, {"grace": float("nan")}])
def test_invalid_quorum_is_refused(wrong):
    with pytest.raises(ConfigError):
        Policy("drop", **({"quorum": 1} | wrong))
