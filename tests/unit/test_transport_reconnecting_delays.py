"""Reconnections of a thousand independent silos are spread over time, with a clock of the test."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from fedbroker.transport.amqp.delays import MAX_DELAY, MAX_REFUSAL_DELAY, delays, refusal_delays
from fedbroker.transport.silo.transport import SPREAD

SILOS = 1000


def comes_back(outage: float, spread: float) -> float:
    """Return the time of the first attempt after the outage of a connection that was lost at 0."""
    at = 0.0
    for pause in delays(spread):
        at += pause
        if at >= outage:
            return at
    raise AssertionError("delays end")


@pytest.mark.parametrize("outage", [0.1, 5.0, 60.0])
def test_at_most_half_of_the_silos_reconnect_in_one_second(outage: float) -> None:
    """Expect a third for a spread of 3 s; half is ten standard deviations (1.5 %) above that."""
    random.seed(20_240)
    moments = [comes_back(outage, SPREAD) for _ in range(SILOS)]
    first = min(moments)
    seconds = Counter(int(moment - first) for moment in moments)
    assert max(seconds.values()) <= SILOS / 2
    # the same for any start of the second
    moments.sort()
    assert all(later - sooner > 1.0 for sooner, later in zip(moments, moments[SILOS // 2 :], strict=False))


@pytest.mark.parametrize("outage", [0.1, 5.0, 60.0])
@pytest.mark.parametrize("spread", [0.1, SPREAD])
def test_no_silo_waits_longer_than_the_longest_delay(outage: float, spread: float) -> None:
    assert all(comes_back(outage, spread) - outage <= MAX_DELAY for _ in range(SILOS))


def test_first_attempt_is_immediate_without_a_spread() -> None:
    assert max(comes_back(0.0, 0.1) for _ in range(SILOS)) <= 0.1


@pytest.mark.parametrize("spread", [0.1, 3.0, 5.0, 30.0])
def test_delays_are_bounded_and_not_too_short(spread: float) -> None:
    first, *later = islice(delays(spread), 40)
    assert 0.0 <= first <= spread
    assert all(spread / 2 <= pause <= max(spread, MAX_DELAY) for pause in later)
    assert min(later[10:]) >= MAX_DELAY / 2


def test_delays_after_refusals_double_up_to_a_minute() -> None:
    pauses = list(islice(refusal_delays(), 40))
    assert MAX_REFUSAL_DELAY == 60.0
    for number, pause in enumerate(pauses):
        longest = min(2.0 * 2**number, 60.0)
        assert longest / 2 <= pause <= longest
