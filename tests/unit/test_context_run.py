"""Runs of programs: their rounds, metrics and events, without a broker."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import tensorflow as tf

import fedbroker
from fedbroker.context.run import current_run, flat_metrics, origin_of, run_of
from fedbroker.errors import ContextClosed, UsageError
from fedbroker.session.events import Origin
from tests.support.wait import wait_until

SETTINGS = {"url": "amqp://localhost:1/", "cohort": "airports", "min_silos": 1, "progress": False}


@pytest.fixture
def events():
    return []


@pytest.fixture
def context(events):
    with fedbroker.create_sync_execution_context(**SETTINGS, on_event=events.append) as context:
        yield context


def told(events, count):
    """Return the details of that many events, which come from the context's own thread."""
    wait_until(lambda: len(events) >= count, 10, f"{count} events, not {len(events)}")
    return [(event.name, {key: value for key, value in event.details.items() if key != "run"}) for event in events]


def test_rounds_of_a_run_are_events_with_flat_metrics(context, events):
    rows = []
    with context.run("digits", rounds=2, on_round=lambda *row: rows.append(row)) as run:
        for number in run:
            run.report({"train": OrderedDict(loss=np.float32(0.5), examples=tf.constant(7)), "aggregator": ()})
            assert run.round == number + 1
    metrics = {"train/loss": 0.5, "train/examples": 7.0}
    assert rows == [(1, metrics), (2, metrics)]
    *rounds, finished = told(events, 4)
    assert rounds == [
        ("run_started", {"program": "digits", "rounds": 2}),
        ("round_finished", {"program": "digits", "rounds": 2, "round": 1, "metrics": metrics}),
        ("round_finished", {"program": "digits", "rounds": 2, "round": 2, "metrics": metrics}),
    ]
    assert finished[0] == "run_finished"
    assert (finished[1]["program"], finished[1]["outcome"]) == ("digits", "ok")
    assert finished[1]["seconds"] > 0
    assert {event.details["run"] for event in events} == {run.id}
    assert len(bytes.fromhex(run.id)) == 8


def test_rounds_that_are_not_reported_finish_with_the_next(context, events):
    with context.run("counted", rounds=3, start=2) as run:
        for number in run:
            if number == 3:
                run.report({"loss": 1})
    started = [details.get("round") for name, details in told(events, 4) if name == "round_finished"]
    assert started == [2, 3]


def test_a_run_without_a_number_of_rounds_counts_on(context):
    seen = []
    with context.run("open", on_round=(lambda number, metrics: seen.append(number),)) as run:
        for number in run:
            run.report()
            if number == 3:
                break
        run.report({}, round=9)
        assert (run.round, repr(run)) == (10, "Run('open', round 10)")
    assert seen == [1, 2, 3, 9]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError, "failed"), (KeyboardInterrupt, "cancelled"), (asyncio.CancelledError, "cancelled")],
)
def test_outcome_of_a_run_that_ends_with_an_error(context, events, error, outcome):
    with pytest.raises(error), context.run("broken", rounds=1):
        raise error
    assert told(events, 2)[1][1]["outcome"] == outcome


def test_current_run_is_the_innermost_one_and_of_each_context_its_own(context):
    with fedbroker.create_sync_execution_context(**SETTINGS) as other:
        assert current_run() is None
        with context.run("outer", rounds=5) as outer, other.run("inner") as inner:
            assert current_run() is inner
            assert run_of(context._coordinator) is outer
            outer.report()
            assert origin_of(context._coordinator, "sums") == Origin("sums", outer.id, "outer", 2)
            assert origin_of(object(), "sums") == Origin("sums")
        assert current_run() is None


async def test_tasks_of_an_async_program_belong_to_its_run(events):
    async with fedbroker.create_async_execution_context(**SETTINGS, on_event=events.append) as context:
        with context.run("digits", rounds=1) as run:
            assert await asyncio.create_task(asyncio.to_thread(current_run)) is run
            run.report({"loss": 2})
        await asyncio.to_thread(told, events, 3)


def test_exception_of_on_round_is_the_program_s_own(context):
    def full(number, metrics):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), context.run("digits", on_round=full) as run:
        run.report({"loss": 1})


def test_run_on_a_closed_context(context):
    with context.run("digits") as run:
        context.close()
        with pytest.raises(ContextClosed):
            run.report()
    with pytest.raises(ContextClosed), context.run("again"):
        pass
    assert current_run() is None


@pytest.mark.parametrize("wrong", [{"program": ""}, {"rounds": 0}, {"start": -1}])
def test_wrong_arguments_of_a_run(context, wrong):
    with pytest.raises(UsageError):
        context.run(**{"program": "digits", **wrong})
    with context.run("digits") as run, pytest.raises(UsageError, match="round=0 is not"):
        run.report(round=0)


def test_metrics_that_are_not_one_number_are_left_out():
    pair = namedtuple("pair", "first second")
    found = flat_metrics(
        {
            "text": "0.5",
            "bytes": b"1",
            "matrix": np.ones((2, 2)),
            "row": tf.constant([1.0]),
            "word": tf.constant("x"),
            "none": None,
            "complex": 1j,
            "huge": 10**400,
            "flag": True,
            "pair": pair(1, [2, 3]),
            3: np.int64(4),
        }
    )
    assert found == {"flag": 1.0, "pair/first": 1.0, "pair/second/0": 2.0, "pair/second/1": 3.0, "3": 4.0}
    assert all(type(value) is float for value in found.values())
