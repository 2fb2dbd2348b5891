"""Misbehaviour counts: a few invalid messages are tolerated, more block a silo for a while."""

from __future__ import annotations

from fedbroker.transport.coordinator.requests import MisbehaviourCounter


def test_silo_above_the_limit_is_blocked_and_reported_once():
    strikes = MisbehaviourCounter(3)
    assert [strikes.add("ewr", 1.0) for _ in range(6)] == [False, False, False, True, False, False]
    assert strikes.exceeds_limit("ewr", 1.0)
    assert not strikes.exceeds_limit("jfk", 1.0)


def test_block_ends_after_a_minute():
    strikes = MisbehaviourCounter(1)
    for _ in range(3):
        strikes.add("ewr", 1.0)
    assert strikes.exceeds_limit("ewr", 61.0)
    assert not strikes.exceeds_limit("ewr", 61.1)
    assert not strikes.add("ewr", 62.0)
