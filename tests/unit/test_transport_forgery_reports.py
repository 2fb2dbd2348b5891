"""Alarms: each coordinator is told of each, once."""

from __future__ import annotations

from fedbroker.transport.silo.forgery_reports import ForgeryReports
from fedbroker.wire.messages import MOST_ALARMS


def test_each_reader_is_told_once():
    alarms = ForgeryReports()
    alarms.add("work", "one")
    assert alarms.take("a") == ("work: one",)
    assert alarms.take("a") == ()
    alarms.add("work", "two")
    assert alarms.take("b") == ("work: one", "work: two")
    assert alarms.take("a") == ("work: two",)


def test_the_last_ones_are_kept():
    alarms = ForgeryReports()
    for number in range(3 * MOST_ALARMS):
        alarms.add("work", str(number))
    assert alarms.take() == tuple(f"work: {number}" for number in range(2 * MOST_ALARMS, 3 * MOST_ALARMS))
    assert alarms.take() == ()
