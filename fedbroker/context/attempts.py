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
from fedbroker.log import get_logger

__all__ = ["attempt"]

T = TypeVar("T")

PAUSE = 0.5
"""Seconds before the second attempt, doubled for each further one, with jitter: what died needs a moment."""

_log = get_logger(__name__)

OVERTIME = 1.0
"""Seconds beyond the deadline after which an invocation is stopped wherever it is; what stops by itself says more."""


async def attempt(
    once: Callable[[Deadline], Awaitable[T]], *, retries: int, seconds: float | None, pause: float = PAUSE
) -> T:
    """The result of the first attempt that ends well.

    Args:
        once: one attempt, with the deadline that it has.
        retries: how many further attempts there may be; only after an error that is ``retryable``.
        seconds: for all attempts together; None for no bound but the stages' own.
        pause: seconds before the second attempt.

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
                    _log.warning("trying again", attempt=number + 2, of=retries + 1, reason=str(error))
                await asyncio.sleep(wait)
    except TimeoutError:
        raise DeadlineExceeded(
            f"the invocation took more than {seconds:g} s", hint="raise deadline, or ask for less at once"
        ) from None
    raise AssertionError("an attempt returns or raises")
