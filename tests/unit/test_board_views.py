"""The board's structs agree with the sessions' own vocabulary."""

from __future__ import annotations

from typing import get_args

from fedbroker.board.views import BarOutcome
from fedbroker.session.stage_state import OutcomeName


def test_a_bar_has_each_outcome_of_a_session() -> None:
    assert set(get_args(BarOutcome)) == {"waiting", *get_args(OutcomeName)}
