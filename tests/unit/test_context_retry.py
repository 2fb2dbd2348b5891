"""Trying again: only what is worth it, so often as allowed, within the time."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.context.retry import attempt
from fedbroker.errors import BrokerLost, DeadlineExceeded, SiloError


class Attempts:
    """Fails as often as it is told to, with a given error."""

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


async def test_what_was_lost_is_tried_again():
    once = Attempts(2, LOST)
    assert await attempt(once, retries=2, seconds=None, pause=0.001) == "result"
    assert once.made == 3


async def test_so_often_and_no_more():
    once = Attempts(3, LOST)
    with pytest.raises(BrokerLost):
        await attempt(once, retries=2, seconds=None, pause=0.001)
    assert once.made == 3


async def test_what_would_only_fail_again_is_not():
    once = Attempts(1, WRONG)
    with pytest.raises(SiloError):
        await attempt(once, retries=2, seconds=None, pause=0.001)
    assert once.made == 1


async def test_not_beyond_the_deadline():
    once = Attempts(9, LOST)
    with pytest.raises(BrokerLost):
        await attempt(once, retries=9, seconds=0.05, pause=1.0)
    assert once.made == 1


async def test_an_attempt_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr("fedbroker.context.retry.OVERTIME", 0.01)

    async def for_ever(deadline):
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"more than 0\.01 s"):
        await attempt(for_ever, retries=2, seconds=0.01)


async def test_each_attempt_has_the_same_deadline():
    seen = []

    async def once(deadline):
        seen.append(deadline)
        raise LOST

    with pytest.raises(BrokerLost):
        await attempt(once, retries=1, seconds=30.0, pause=0.001)
    assert seen[0] == seen[1]
