"""The state machine of a stage, and what its policy says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import DeadlineExceeded, SiloError
from fedbroker.session.stage import FailPolicy, Lost, StageState
from fedbroker.wire.messages import Done, Failed

SILOS = ("ewr", "jfk", "lga")


def done(silo):
    return Done("s", 0, silo, "1", (), 0.1)


def failed(silo, cause="no such table"):
    return Failed("s", 0, silo, "1", "data", cause, "look there")


def state():
    return StageState("s", 0, SILOS, 2.0)


outcomes = st.sampled_from(SILOS).flatmap(
    lambda silo: st.sampled_from([done(silo), failed(silo), Lost(silo, "expired"), Lost(silo, "time")])
)


@given(st.lists(outcomes, max_size=12))
def test_the_first_outcome_of_a_silo_counts_and_order_is_the_memberships(events):
    machine = state()
    first = {}
    for outcome in events:
        machine.settle(outcome.silo, outcome)
        first.setdefault(outcome.silo, outcome)
    assert machine.outcomes == first
    assert machine.pending == tuple(silo for silo in SILOS if silo not in first)
    assert machine.participants == tuple(silo for silo in SILOS if isinstance(first.get(silo), Done))


@given(st.lists(outcomes, max_size=12))
def test_any_failure_ends_the_stage_and_none_does_not(events):
    machine = state()
    for outcome in events:
        machine.settle(outcome.silo, outcome)
    bad = [one for one in machine.outcomes.values() if not isinstance(one, Done)]
    assert (FailPolicy().failure(machine) is not None) == bool(bad)


def test_strangers_are_ignored():
    machine = state()
    machine.settle("mallory", done("mallory"))
    assert machine.outcomes == {}


def test_a_failed_silo_is_named_with_its_words_and_stage():
    machine = state()
    machine.settle("jfk", failed("jfk"))
    error = FailPolicy().failure(machine)
    assert isinstance(error, SiloError)
    assert (error.silo, error.stage, error.session, error.cause) == ("jfk", 0, "s", "no such table")
    assert "look there" in str(error)


def test_unread_and_unanswered_are_told_apart():
    machine = state()
    machine.settle("ewr", Lost("ewr", "expired"))
    machine.settle("lga", Lost("lga", "time"))
    error = FailPolicy().failure(machine)
    assert isinstance(error, DeadlineExceeded)
    assert (error.silos, error.unread) == (("ewr", "lga"), ("ewr",))
    assert "never picked its work up" in str(error)


@pytest.mark.parametrize("reason", ["unroutable", "rejected", "delivery_limit"])
def test_a_silo_that_cannot_take_work_is_a_silo_error(reason):
    machine = state()
    machine.settle("ewr", Lost("ewr", reason))
    assert isinstance(FailPolicy().failure(machine), SiloError)
