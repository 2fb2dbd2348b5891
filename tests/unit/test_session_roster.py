"""Presence of silos, with a clock of the test."""

from __future__ import annotations

from fedbroker.session.roster import Roster
from fedbroker.wire.messages import Announce, Leave


def hello(silo, incarnation="1", heartbeat=5.0):
    return Announce("airports", silo, incarnation, heartbeat)


def names(roster, now):
    return [member.name for member in roster.present(now)]


def test_silo_is_present_until_two_heartbeats_have_passed():
    roster = Roster()
    roster.announced(hello("lga"), 0.0)
    roster.announced(hello("ewr"), 4.0)
    assert names(roster, 10.0) == ["ewr", "lga"]
    assert names(roster, 10.1) == ["ewr"]
    assert roster.missing(10.1) == ("lga",)


def test_short_heartbeats_may_be_two_seconds_late():
    roster = Roster()
    roster.announced(hello("lga", heartbeat=0.5), 0.0)
    assert names(roster, 2.5) == ["lga"]
    assert names(roster, 2.6) == []


def test_announcement_renews_presence():
    roster = Roster()
    roster.announced(hello("ewr"), 0.0)
    roster.announced(hello("ewr"), 10.0)
    assert names(roster, 20.0) == ["ewr"]


def test_leaving_and_returning_apply_immediately():
    roster = Roster()
    roster.announced(hello("ewr"), 0.0)
    roster.left(Leave("airports", "ewr", "1"))
    assert names(roster, 0.1) == []
    roster.announced(hello("ewr", "2"), 0.2)
    assert [member.incarnation for member in roster.present(0.3)] == ["2"]


def test_leave_of_an_earlier_incarnation_is_ignored():
    roster = Roster()
    roster.announced(hello("ewr", "2"), 0.0)
    roster.left(Leave("airports", "ewr", "1"))
    assert names(roster, 0.1) == ["ewr"]


def test_silo_is_new_if_it_was_not_present_before():
    roster = Roster()
    first = Announce("c", "ewr", "1", 1.0)
    assert roster.announced(first, 0.0)
    assert not roster.announced(first, 1.0)
    assert roster.announced(Announce("c", "ewr", "2", 1.0), 2.0)  # restarted
    assert roster.announced(Announce("c", "ewr", "2", 1.0), 9.0)  # was missing before
    assert roster.left(Leave("c", "ewr", "2"))
    assert not roster.left(Leave("c", "ewr", "2"))
    assert not roster.left(Leave("c", "ewr", "1"))


def test_silos_missing_longest_are_removed_first():
    roster = Roster()
    for at, name in enumerate(("ewr", "jfk", "lga")):
        roster.announced(Announce("c", name, "1", 1.0), float(at))
    assert not roster.forget_longest_missing(1.0)
    assert roster.forget_longest_missing(4.5)  # ewr and jfk are missing
    assert (len(roster), roster.missing(4.5)) == (2, ("jfk",))
