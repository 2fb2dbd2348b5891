"""Runs a board: follows the broker, lets time pass, and serves the page until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from fedbroker.board.app import board_app, board_feed
from fedbroker.board.state import BoardState
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost
from fedbroker.log import get_logger
from fedbroker.transport.watcher import BrokerWatcher
from fedbroker.web.listen import Access, Address
from fedbroker.web.serve import serving
from fedbroker.wire.events import CohortEvent
from fedbroker.wire.messages import Announce, Leave

__all__ = ["Board"]

_log = get_logger(__name__)

OPEN_SECONDS: Final = 20.0
"""Seconds to connect with the broker at the start."""
TICK_SECONDS: Final = 0.2
"""Seconds between two looks at the clock: a silo that is gone sends no message."""
COUNT_SECONDS: Final = 10.0
"""Seconds between two counts of dead letters."""
FINISH_SECONDS: Final = 2.0
"""Seconds for a count that is under way when the board stops."""


class Board:
    """A board of some or all cohorts of a broker.

    Args:
        url: of the broker.
        cohorts: names of the cohorts; empty for all.
        address: where to listen.
        access: who may open the page.

    Raises:
        ConfigError: a bad URL or name.
    """

    def __init__(self, url: str, cohorts: Sequence[str], address: Address, access: Access) -> None:
        self._began = time.time() - time.monotonic()
        self._address = address
        self._access = access
        self._state = BoardState(cohorts)
        self._feed = board_feed(self._state, self._now)
        self._watcher = BrokerWatcher(url, cohorts, self._on_silo, self._on_events)

    async def serve(self, ready: Callable[[Address], None], stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; call ``ready`` with the address that is listened on.

        Raises:
            BrokerError: the broker cannot be reached, or refuses us.
            ConfigError: the address cannot be listened on.
        """
        await self._watcher.open(Deadline.after(OPEN_SECONDS))
        try:
            app = board_app(self._state, self._feed, self._now, self._access)
            async with serving(app, self._address) as address, asyncio.TaskGroup() as running:
                tasks = [running.create_task(one) for one in (self._feed.run(), self._tick())]
                counting = running.create_task(self._count(stop))
                ready(address)
                await stop.wait()
                # A cancelled request closes its channel, perhaps while the broker closes it because a queue is missing:
                # a protocol error, which ends the connection.
                await asyncio.wait([counting], timeout=FINISH_SECONDS)
                for task in (*tasks, counting):
                    task.cancel()
        finally:
            await self._watcher.close()

    def _now(self) -> float:
        """Return the seconds since 1970 by a clock that is never set."""
        return self._began + time.monotonic()

    def _on_silo(self, message: Announce | Leave) -> None:
        self._state.on_silo(message, self._now())  # sent with the next tick: most announcements change nothing

    def _on_events(self, events: list[CohortEvent]) -> None:
        self._state.on_events(events, self._now())
        self._feed.changed()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            lost = await self._watcher.lost()
            self._state.on_broker(lost, self._now())
            self._state.tick(self._now())
            self._feed.changed()

    async def _count(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                counts = await self._watcher.dead_letters(self._state.cohorts)
                self._state.on_dead_letters(counts, self._now())
            except BrokerLost as error:
                _log.info("dead_letters_not_counted", reason=error.what)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COUNT_SECONDS):
                    await stop.wait()
