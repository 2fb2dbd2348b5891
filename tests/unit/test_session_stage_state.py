"""The state machine of a stage under any schedule: participants, the closing moment, and the error."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import DeadlineExceeded, SiloError, StragglerTimeout
from fedbroker.session.stage_state import (
    Cancelled,
    Close,
    Fail,
    Lost,
    LostReason,
    OutcomeName,
    StageState,
    TooLate,
    Wait,
    outcome_name,
    why,
)
from fedbroker.wire.messages import Done, ErrorType, Failed

SILOS = ("ewr", "jfk", "lga")
DEADLINE = 10.0


def done(silo):
    return Done("s", 0, silo, "1", (), 0.1)


def failed(silo, cause="no such table"):
    return Failed("s", 0, silo, "1", "data", cause, "look there")


def state(needed=3, grace=None):
    return StageState("s", 0, SILOS, needed, 2.0, DEADLINE, grace)


outcomes = st.sampled_from(SILOS).flatmap(
    lambda silo: st.sampled_from([done(silo), failed(silo), Lost(silo, "expired"), Lost(silo, "time")])
)
events = st.lists(st.tuples(outcomes, st.floats(0.0, 1.0)), max_size=12)
needed = st.integers(1, 3)


def play(machine, happenings):
    now = 0.0
    for outcome, pause in happenings:
        now += pause / 2
        machine.settle(outcome.silo, outcome, now)
    return now


@given(events)
def test_first_outcome_of_a_silo_counts_in_membership_order(happenings):
    machine = state()
    play(machine, happenings)
    first = {}
    for outcome, _ in happenings:
        first.setdefault(outcome.silo, outcome)
    assert machine.outcomes == first
    assert machine.pending == tuple(silo for silo in SILOS if silo not in first)
    assert machine.participants == tuple(silo for silo in SILOS if isinstance(first.get(silo), Done))


@given(events, needed, st.none() | st.floats(0.0, 3.0))
def test_stage_closes_exactly_at_its_quorum(happenings, needed, grace):
    machine = state(needed, grace)
    now = play(machine, happenings)
    verdict = machine.verdict(now)
    answered, pending = len(machine.participants), len(machine.pending)
    ended = [outcome for outcome in machine.outcomes.values() if not isinstance(outcome, Done)]
    only_time = all(isinstance(outcome, Lost) for outcome in ended)
    assert isinstance(verdict, Fail) == (answered + pending < needed and not (pending and only_time))
    if isinstance(verdict, Close):
        assert answered >= needed
        assert not pending or grace is not None
    if isinstance(verdict, Wait):
        assert pending
        assert now < verdict.until <= DEADLINE
        after = machine.verdict(verdict.until)
        assert isinstance(after, Close if answered >= needed else Fail)


def test_timeout_error_names_all_silos():
    machine = state()
    machine.settle("ewr", Lost("ewr", "expired"), 1.0)
    assert machine.verdict(1.0) == Wait(DEADLINE)
    machine.settle("jfk", Lost("jfk", "time"), 1.1)
    machine.settle("lga", Lost("lga", "expired"), 1.2)
    verdict = machine.verdict(1.2)
    assert isinstance(verdict, Fail)
    assert isinstance(verdict.error, StragglerTimeout)
    assert verdict.error.silos == SILOS
    assert verdict.error.unread == ("ewr", "lga")


def test_grace_starts_with_the_quorum():
    machine = state(needed=2, grace=1.5)
    machine.settle("ewr", done("ewr"), 1.0)
    assert machine.verdict(3.0) == Wait(DEADLINE)
    machine.settle("jfk", done("jfk"), 4.0)
    assert machine.verdict(4.0) == Wait(5.5)
    assert machine.verdict(5.5) == Close()
    assert machine.close(5.5) == {"lga": TooLate("lga")}
    assert not machine.settle("lga", done("lga"), 5.6)
    assert (machine.participants, machine.dropped) == (("ewr", "jfk"), ("lga",))


def test_silo_that_is_in_time_is_not_late_when_another_fails():
    machine = state()
    machine.settle("ewr", failed("ewr"), 1.0)
    assert isinstance(machine.verdict(1.0), Fail)
    assert machine.close(1.0, failed=True) == {"jfk": Cancelled("jfk"), "lga": Cancelled("lga")}


def test_silo_that_is_not_in_time_has_timed_out_when_the_stage_fails():
    machine = state()
    assert machine.close(DEADLINE, failed=True) == {silo: Lost(silo, "time") for silo in SILOS}


def test_late_joiner_takes_the_slot_of_the_silo_that_it_replaces():
    machine = state(needed=3)
    machine.settle("jfk", Lost("jfk", "expired"), 1.0)
    machine.offer("jfk")
    assert machine.verdict(1.0) == Wait(DEADLINE)
    machine.fill_slot("bos", "jfk")
    assert machine.asked == ("ewr", "jfk", "bos", "lga")
    for silo in ("lga", "bos", "ewr"):
        machine.settle(silo, done(silo), 2.0)
    assert machine.verdict(2.0) == Close()
    assert (machine.participants, machine.dropped) == (("ewr", "bos", "lga"), ("jfk",))


def test_unfilled_slot_ends_at_the_stage_timeout():
    machine = state(needed=3)
    machine.settle("jfk", Lost("jfk", "expired"), 1.0)
    machine.offer("jfk")
    for silo in ("ewr", "lga"):
        machine.settle(silo, done(silo), 2.0)
    assert machine.verdict(9.9) == Wait(DEADLINE)
    verdict = machine.verdict(DEADLINE)
    assert isinstance(verdict, Fail)
    assert isinstance(verdict.error, StragglerTimeout)
    assert verdict.error.silos == ("jfk",)


def test_unknown_silos_are_ignored():
    machine = state()
    assert not machine.settle("mallory", done("mallory"), 0.0)
    assert machine.outcomes == {}


def error(*settled):
    machine = state()
    for outcome in settled:
        machine.settle(outcome.silo, outcome, 1.0)
    verdict = machine.verdict(1.0)
    assert isinstance(verdict, Fail)
    return verdict.error


def test_silo_error_has_its_cause_and_stage():
    one = error(failed("jfk"))
    assert isinstance(one, SiloError)
    assert (one.silo, one.stage, one.session, one.cause) == ("jfk", 0, "s", "no such table")
    assert "look there" in str(one)


def test_unread_and_unanswered_work_are_distinguished():
    machine = state()
    machine.settle("ewr", Lost("ewr", "expired"), 1.0)
    machine.settle("jfk", done("jfk"), 1.0)
    verdict = machine.verdict(DEADLINE)
    assert isinstance(verdict, Fail)
    one = verdict.error
    assert isinstance(one, DeadlineExceeded)
    assert (one.silos, one.unread) == (("ewr", "lga"), ("ewr",))
    assert "never picked its work up" in str(one)


@pytest.mark.parametrize("reason", ["unroutable", "rejected", "delivery_limit"])
def test_unreachable_silo_is_a_silo_error(reason):
    one = error(Lost("ewr", reason))
    assert isinstance(one, SiloError)
    assert one.retryable == (reason == "unroutable")


@pytest.mark.parametrize("error_type", get_args(ErrorType))
def test_each_type_of_error_has_an_outcome(error_type):
    outcome = Failed("s", 0, "a", "1", error_type, "why")
    assert outcome_name(outcome) in get_args(OutcomeName)
    assert why(outcome) == "why"


@pytest.mark.parametrize("reason", get_args(LostReason))
def test_each_reason_of_a_lost_reply_has_an_outcome(reason):
    assert outcome_name(Lost("a", reason)) in get_args(OutcomeName)
    assert why(Lost("a", reason)).startswith("it ")
