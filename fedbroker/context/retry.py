"""Retries of an invocation after a retryable error, bounded in number and by the invocation's time limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, FedbrokerError
from fedbroker.text import seconds_text

__all__ = ["with_retries"]

T = TypeVar("T")

PAUSE = 0.5
"""Seconds before the second attempt, doubled for each further one, with jitter: a process that died needs time to
restart."""

OVERTIME = 1.0
"""Seconds beyond the deadline after which an invocation is cancelled. Until then a step can stop by itself, with an
error that says more."""


async def with_retries(
    run: Callable[[Deadline], Awaitable[T]],
    *,
    retries: int,
    seconds: float | None,
    pause: float = PAUSE,
    on_retry: Callable[[int, FedbrokerError], None] = lambda number, error: None,
) -> T:
    """Return the result of the first attempt that succeeds.

    Args:
        run: makes one attempt, given its deadline.
        retries: largest number of further attempts; they are made only after a ``retryable`` error.
        seconds: time limit for all attempts together; None for no limit but the stages' own.
        pause: seconds before the second attempt.
        on_retry: called before each further attempt with its number, from 2, and the error of the previous attempt.

    Raises:
        DeadlineExceeded: the time was up.
        FedbrokerError: the error of the last attempt.
    """
    deadline = Deadline.never() if seconds is None else Deadline.after(seconds)
    try:
        async with asyncio.timeout(None if seconds is None else seconds + OVERTIME):
            for number in range(retries + 1):
                try:
                    return await run(deadline)
                except FedbrokerError as error:
                    wait = pause * 2**number * random.uniform(0.5, 1.0)
                    if not error.retryable or number == retries or wait >= deadline.left():
                        raise
                    on_retry(number + 2, error)
                await asyncio.sleep(wait)
    except TimeoutError:
        if seconds is None:
            raise
        raise DeadlineExceeded(
            f"the invocation took more than {seconds_text(seconds)}",
            hint="raise Timeouts(total=), or ask for less at once",
        ) from None
    raise AssertionError("an attempt returns or raises")
