"""Retries: only of retryable errors, up to their number, within the deadline."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.context.coordinator import with_retries
from fedbroker.errors import BrokerLost, CohortTimeout, DeadlineExceeded, SiloError


class Attempts:
    """Fails a given number of times with a given error."""

    def __init__(self, failures, error):
        self.failures = failures
        self.error = error
        self.made = 0

    async def __call__(self, deadline):
        self.made += 1
        if self.made <= self.failures:
            raise self.error
        return "result"


LOST = BrokerLost("gone")
WRONG = SiloError("ewr", "no such table")


async def test_lost_attempt_is_retried():
    once = Attempts(2, LOST)
    assert await with_retries(once, retries=2, seconds=None, pause=0.001) == "result"
    assert once.made == 3


async def test_number_of_retries_is_limited():
    once = Attempts(3, LOST)
    with pytest.raises(BrokerLost):
        await with_retries(once, retries=2, seconds=None, pause=0.001)
    assert once.made == 3


async def test_permanent_error_is_not_retried():
    once = Attempts(1, WRONG)
    with pytest.raises(SiloError):
        await with_retries(once, retries=2, seconds=None, pause=0.001)
    assert once.made == 1


async def test_no_retry_after_the_deadline():
    once = Attempts(9, LOST)
    with pytest.raises(BrokerLost):
        await with_retries(once, retries=9, seconds=0.05, pause=1.0)
    assert once.made == 1


async def test_endless_attempt_ends_at_the_deadline(monkeypatch):
    monkeypatch.setattr("fedbroker.context.coordinator.OVERTIME", 0.01)

    async def for_ever(deadline):
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"more than 0\.01 s"):
        await with_retries(for_ever, retries=2, seconds=0.01)


async def test_each_attempt_has_the_same_deadline():
    seen = []

    async def once(deadline):
        seen.append(deadline)
        raise LOST

    with pytest.raises(BrokerLost):
        await with_retries(once, retries=1, seconds=30.0, pause=0.001)
    assert seen[0] == seen[1]


async def test_last_error_names_the_first_one():
    errors = [LOST, CohortTimeout("airports", 1, [], [], 3.0)]

    async def once(deadline):
        raise errors.pop(0)

    with pytest.raises(CohortTimeout) as caught:
        await with_retries(once, retries=2, seconds=None, pause=0.001)
    assert caught.value.earlier is LOST
    assert "(present: none) (the first attempt: gone); start more silos" in str(caught.value)


async def test_error_that_repeats_is_named_once():
    once = Attempts(3, LOST)
    with pytest.raises(BrokerLost) as caught:
        await with_retries(once, retries=2, seconds=None, pause=0.001)
    assert caught.value.earlier is None
