"""Strikes: a few are nobody's fault, one too many is out, and for a while only."""

from __future__ import annotations

from fedbroker.transport.coordinator.requests import MisbehaviourCounter


def test_the_one_too_many_is_out_and_told_once():
    strikes = MisbehaviourCounter(3)
    assert [strikes.add("ewr", 1.0) for _ in range(6)] == [False, False, False, True, False, False]
    assert strikes.out("ewr", 1.0)
    assert not strikes.out("jfk", 1.0)


def test_a_minute_later_it_is_heard_again():
    strikes = MisbehaviourCounter(1)
    for _ in range(3):
        strikes.add("ewr", 1.0)
    assert strikes.out("ewr", 61.0)
    assert not strikes.out("ewr", 61.1)
    assert not strikes.add("ewr", 62.0)
