"""The state of a silo's service as a page shows it, followed over the control socket."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from fedbroker.errors import FedbrokerError
from fedbroker_worker.control.client import ANSWER_SECONDS, find
from fedbroker_worker.control.protocol import Account, Changes, Explain, Watch
from fedbroker_worker.control.views import StatusView, WorkView
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["PageState", "ServiceFollower"]

WATCH_SECONDS: Final = 5.0
"""Seconds after which the service replies without a change, so that the status on the page is never older."""

RETRY_SECONDS: Final = 1.0
"""Seconds until a service that does not answer is asked again."""

GATHER_SECONDS: Final = 0.1
"""Seconds between two requests: changes within them are asked for together, so that a busy silo is hardly slowed."""

MOST_WORK: Final = 500
"""The most work items that a page shows: those that the service keeps, and those before its restart."""


class PageState(msgspec.Struct, frozen=True):
    """The state of a page, or its changes.

    Attributes:
        at: the present time, in seconds since 1970.
        reachable: whether the service answers.
        problem: why it does not; empty if it does.
        status: the latest status; None before the first one.
        work: the work items; of changes, those that changed.
        removed: of changes, the ids of work items that are no longer shown.
    """

    at: float
    reachable: bool
    problem: str
    status: StatusView | None
    work: list[WorkView]
    removed: list[int] | None = None


class ServiceFollower:
    """Follows a silo's service.

    Args:
        places: where its control socket may be.
        on_change: called after each change; must not block.
    """

    def __init__(self, places: Sequence[Path], on_change: Callable[[], None] = lambda: None) -> None:
        self._places = places
        self._on_change = on_change
        self._status: StatusView | None = None
        self._problem = "the silo's service was not asked yet"
        self._incarnation = ""
        self._after = -1
        self._work: dict[int, WorkView] = {}
        self._changed: dict[int, None] = {}
        self._removed: list[int] = []

    async def run(self) -> None:
        """Follow the service until cancelled; a service that ends is waited for."""
        while True:
            request = Watch(self._incarnation, self._after, WATCH_SECONDS)
            try:
                reply = await in_thread(partial(find, self._places, request, WATCH_SECONDS + ANSWER_SECONDS), "control")
            except (FedbrokerError, OSError) as error:
                self._fail(str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if isinstance(reply[1], Changes):
                self._take(reply[1])
                await asyncio.sleep(0.0 if reply[1].more else GATHER_SECONDS)

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._on_change()

    def _take(self, reply: Changes) -> None:
        if reply.status.incarnation != self._incarnation:  # another process, which numbers its work items by itself
            self._removed += self._work
            self._work.clear()
            self._incarnation = reply.status.incarnation
        self._after, self._status, self._problem = reply.changed, reply.status, ""
        for item in reply.work:
            self._work.pop(item.id, None)
            self._work[item.id] = item
            self._changed[item.id] = None
        while len(self._work) > MOST_WORK:
            oldest = min(self._work, key=lambda number: self._work[number].received)
            del self._work[oldest]
            self._removed.append(oldest)
        self._on_change()

    def state(self) -> PageState:
        """Return the whole state."""
        return PageState(time.time(), not self._problem, self._problem, self._status, list(self._work.values()))

    def changes(self) -> PageState:
        """Return the changes since the last call."""
        changed = [self._work[number] for number in self._changed if number in self._work]
        removed = [number for number in self._removed if number not in self._work]
        self._changed.clear()
        self._removed.clear()
        return PageState(time.time(), not self._problem, self._problem, self._status, changed, removed)

    def work(self, number: int) -> WorkView | None:
        """Return one work item; None if it is not known."""
        return self._work.get(number)

    async def account(self, number: int) -> Account | None:
        """Return a work item in words; None if the service says something else.

        Raises:
            FedbrokerError: the service does not answer, or no longer knows it.
        """
        _, reply = await in_thread(partial(find, self._places, Explain(number)), "control")
        return reply if isinstance(reply, Account) else None
