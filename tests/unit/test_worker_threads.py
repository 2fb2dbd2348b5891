"""Calls of a source that another thread ends."""

from __future__ import annotations

import threading

import pytest
from fedbroker_worker.errors import SourceError
from fedbroker_worker.threads import Call, CancellableCalls

from tests.support.wait import wait_until


@pytest.fixture
def calls():
    return CancellableCalls("flights")


def test_call_returns_its_result_or_raises(calls):
    assert calls.run(lambda call: call.cancelled) is False
    with pytest.raises(ZeroDivisionError):
        calls.run(lambda _: 1 // 0)


@pytest.mark.parametrize("reading", [True, False])
def test_only_reads_are_interrupted_and_closing_ends_all(calls, reading):
    under_way, release, errors = threading.Event(), threading.Event(), []

    def function(call):
        call.on_cancel(release.set)
        under_way.set()
        release.wait(10)

    def run():
        try:
            calls.run(function, reading=reading)
        except SourceError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert under_way.wait(5)
    calls.interrupt()
    assert release.is_set() is reading
    calls.close()
    thread.join(5)
    said = "reading was interrupted" if reading else "it is closed"
    assert errors == [f"[FB4203] source 'flights': {said}"]
    with pytest.raises(SourceError, match="it is closed"):
        calls.run(lambda _: 1)


def test_call_that_does_not_stop_is_abandoned(calls):
    under_way, release, errors = threading.Event(), threading.Event(), []

    def run():
        try:
            calls.run(lambda _: (under_way.set(), release.wait(10)), reading=True)
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert under_way.wait(5)
    calls.interrupt()
    thread.join(5)
    assert len(errors) == 1
    assert not release.is_set()
    assert calls.run(lambda _: 7, reading=True) == 7
    release.set()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "source flights"], 5)


def test_cancel_of_an_ended_call_returns_immediately():
    call, cancelled = Call(), []
    call.on_cancel(lambda: cancelled.append(1))

    def forgotten():
        cancelled.append(2)

    call.on_cancel(forgotten)
    call.off_cancel(forgotten)
    assert not call.pause(0)
    call.cancel()
    call.on_cancel(lambda: cancelled.append(3))
    assert cancelled == [1, 3]
    assert call.pause(10)
