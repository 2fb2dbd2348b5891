"""Forgery reports: each coordinator receives each report once."""

from __future__ import annotations

from fedbroker.transport.silo.work_consumer import ForgeryReports
from fedbroker.wire.messages import MAX_FORGERY_REPORTS


def test_each_coordinator_receives_a_report_once():
    alarms = ForgeryReports()
    alarms.add("work", "one")
    assert alarms.take("a") == ("work: one",)
    assert alarms.take("a") == ()
    alarms.add("work", "two")
    assert alarms.take("b") == ("work: one", "work: two")
    assert alarms.take("a") == ("work: two",)


def test_most_recent_reports_are_kept():
    alarms = ForgeryReports()
    for number in range(3 * MAX_FORGERY_REPORTS):
        alarms.add("work", str(number))
    assert alarms.take() == tuple(
        f"work: {number}" for number in range(2 * MAX_FORGERY_REPORTS, 3 * MAX_FORGERY_REPORTS)
    )
    assert alarms.take() == ()
