"""Trying again, a bounded number of times, what died or was lost; within the time that an invocation has.

Imports the base.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, FedbrokerError
from fedbroker.quantities import seconds_text

__all__ = ["attempt"]

T = TypeVar("T")

PAUSE = 0.5
"""Seconds before the second attempt, doubled for each further one, with jitter: what died needs a moment."""

OVERTIME = 1.0
"""Seconds beyond the deadline after which an invocation is stopped wherever it is; what stops by itself says more."""


async def attempt(
    once: Callable[[Deadline], Awaitable[T]],
    *,
    retries: int,
    seconds: float | None,
    pause: float = PAUSE,
    on_retry: Callable[[int, FedbrokerError], None] = lambda number, error: None,
) -> T:
    """The result of the first attempt that ends well.

    Args:
        once: one attempt, with the deadline that it has.
        retries: how many further attempts there may be; only after an error that is ``retryable``.
        seconds: for all attempts together; None for no bound but the stages' own.
        pause: seconds before the second attempt.
        on_retry: told before each further attempt: its number, from 2, and what the one before failed with.

    Raises:
        DeadlineExceeded: the time was up.
        FedbrokerError: the error of the last attempt.
    """
    deadline = Deadline.never() if seconds is None else Deadline.after(seconds)
    try:
        async with asyncio.timeout(None if seconds is None else seconds + OVERTIME):
            for number in range(retries + 1):
                try:
                    return await once(deadline)
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
