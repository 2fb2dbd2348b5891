"""Times and counts as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import CohortTimeout
from fedbroker.quantities import count_text, seconds_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00001, "0 s"),
        (0.05, "0.05 s"),
        (2.5, "2.5 s"),
        (12.345, "12.3 s"),
        (300.0, "300 s"),
        (999.6, "1,000 s"),
        (1234.5, "1,234 s"),
        (1_800, "1,800 s"),
        (86_400.0, "86,400 s"),
        (2_000_000.0, "2,000,000 s"),
    ],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


@given(st.floats(0, 1e9))
def test_no_time_is_written_with_an_exponent(seconds):
    assert "e" not in seconds_text(seconds)


def test_one_is_singular():
    assert [count_text(number, "silo") for number in (0, 1, 2, 1000)] == ["0 silos", "1 silo", "2 silos", "1,000 silos"]


def test_errors_say_one_silo_and_long_times_in_full():
    assert "has 0 of 1 silo after 1,200 s" in str(CohortTimeout("airports", 1, [], [], 1200.0))
