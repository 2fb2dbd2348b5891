"""Silos that are slow, stopped, killed or late, under each policy: the result, the report, and what comes after."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

import fedbroker
from fedbroker.errors import DeadlineExceeded, StragglerTimeout
from fedbroker.testing import local_cohort
from tests.support.computations import sum_numbers
from tests.support.context_settings import context_settings
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

NAMES = ("bos", "ewr", "jfk")


def numbers(rows):
    return {"numbers": {"source": "duckdb", "query": f"select 1::float as x from range({rows}) t(i)"}}


SOURCES = {"bos": numbers(1), "ewr": numbers(10), "jfk": numbers(100)}


@contextlib.contextmanager
def stopped(silo):
    os.kill(silo.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(silo.pid, signal.SIGCONT)


@pytest.fixture
def silos(broker, cohort):
    with local_cohort(SOURCES, cohort=cohort, broker=broker.url, heartbeat=1.0) as silos:
        yield silos


def context_of(silos, **options):
    return fedbroker.create_sync_execution_context(silos.url, cohort=silos.cohort, **context_settings(**options))


def test_a_stage_goes_on_without_a_straggler_and_the_next_session_has_it_back(silos):
    with context_of(silos, min_silos=3, stragglers="drop", quorum=2, stage=3.0) as context:
        assert sum_numbers(context) == 111.0
        assert context.last_session.participants == NAMES
        with stopped(silos.silos["ewr"]):
            start = time.monotonic()
            assert sum_numbers(context) == 101.0
            assert 2.5 < time.monotonic() - start < 4.5
            report = context.last_session
        assert report.participants == ("bos", "jfk")
        assert dict(report.dropped) == {"ewr": "timed out"}
        answered = {silo.silo: silo for silo in report.stages[0].silos}["jfk"]
        assert answered.bytes_in > 0
        assert answered.compute > 0
        assert 0 < answered.at < 3.0
        assert wait_until(lambda: sum_numbers(context) == 111.0, 30)


@pytest.mark.alone
def test_grace_closes_a_stage_soon_after_its_quorum(silos):
    with context_of(silos, min_silos=3, stragglers="drop", quorum=2, grace=0.3, stage=60.0, join=9.0) as context:
        assert sum_numbers(context) == 111.0
        with stopped(silos.silos["ewr"]):
            start = time.monotonic()
            assert sum_numbers(context) == 101.0
            assert time.monotonic() - start < 5.0
            assert dict(context.last_session.dropped) == {"ewr": "late"}


def test_too_few_for_the_quorum_is_an_error_that_names_the_missing(silos):
    with context_of(silos, min_silos=3, stragglers="drop", quorum=3, stage=2.0) as context:
        assert sum_numbers(context) == 111.0
        with stopped(silos.silos["ewr"]), pytest.raises(StragglerTimeout) as caught:
            sum_numbers(context)
        assert caught.value.silos == ("ewr",)
        assert "FB6002" in context.last_session.error


@pytest.mark.alone
def test_with_every_consumer_gone_the_brokers_dead_letter_is_the_error(silos):
    events = []
    with context_of(silos, min_silos=3, stage=2.0, on_event=events.append) as context:
        assert sum_numbers(context) == 111.0
        for silo in silos.silos.values():
            silo.kill()
        start = time.monotonic()
        with pytest.raises(StragglerTimeout) as caught:
            sum_numbers(context)
        seconds = time.monotonic() - start
        assert 1.7 < seconds < 2.3
        assert set(caught.value.unread) == set(NAMES)  # none of them by a timer of ours
        assert next(event for event in events if event.name == "stage_failed").stage == 0


def test_a_deadline_bounds_the_whole_invocation(silos):
    with context_of(silos, min_silos=3, stage=60.0, total=2.0) as context:
        assert sum_numbers(context) == 111.0
        with stopped(silos.silos["ewr"]):
            start = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                sum_numbers(context)
            assert time.monotonic() - start < 3.5
        assert caught.value.silos == ("ewr",)


def test_a_late_joiner_takes_the_place_of_a_silo_that_is_gone(silos):
    late = silos.silos["jfk"]
    assert late.stop() == 0
    with context_of(silos, min_silos=2, stragglers="replace", quorum=2, stage=16.0, join=10.0) as context:
        assert sum_numbers(context) == 11.0
        silos.silos["ewr"].kill()
        late.start()  # it takes a second or two: the membership is frozen by then, with the one that is gone
        assert sum_numbers(context) == 101.0
        report = context.last_session
        assert report.members == ("bos", "ewr")
        assert report.participants == ("bos", "jfk")
        assert dict(report.dropped) == {"ewr": "expired"}
        assert {silo.silo: silo.in_place_of for silo in report.stages[0].silos}["jfk"] == "ewr"


def test_what_died_is_tried_again_with_a_fresh_membership(silos):
    events = []
    with context_of(silos, min_silos=3, join=20.0, on_event=events.append) as context:
        assert sum_numbers(context) == 111.0
        silos.silos["ewr"].kill()
        silos.silos["ewr"].start()
        assert sum_numbers(context) == 111.0


def test_rules_and_choices(silos):
    with context_of(silos, min_silos=2, eligible=lambda silo: silo.name != "bos") as context:
        assert sum_numbers(context) == 110.0
    with context_of(silos, min_silos=2, max_silos=2, select=lambda silos: list(silos)[-2:]) as context:
        assert wait_until(lambda: sum_numbers(context) == 110.0, 20)
    with context_of(silos, min_silos=3, max_silos=3, select="random") as context:
        assert sum_numbers(context) == 111.0


async def test_a_cohort_of_its_own_without_tff(silos):
    async with fedbroker.Cohort(silos.url, silos.cohort) as cohort:
        members = await cohort.wait(min_silos=3)
        assert tuple(member.name for member in members) == NAMES
        assert "numbers" in cohort.silos[0].sources
