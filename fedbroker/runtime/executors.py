"""Cache of the C++ runtime's executors: kept while in use and for a while after.

An executor holds TensorFlow's sessions of the computations called in it. The next call of the same computation
therefore skips their preparation and continues their random numbers, as in TFF's own contexts. To the runtime, all
executors with the same number of clients are one executor in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fedbroker.runtime.client import Executor, Kept, Service

__all__ = ["Executors"]

IDLE_SECONDS: Final = 60.0
"""How long an unused executor is kept: its memory grows with each new computation."""

MOST_IDLE: Final = 4


class Executors:
    """The executors of one runtime."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}  # by number of clients, least recently used first
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._disposing: set[asyncio.Task[None]] = set()

    async def get(self, service: Service, clients: int) -> Executor:
        """Return an executor with this number of clients; the caller closes it.

        Raises:
            RuntimeUnavailable: the runtime is gone.
        """
        kept = self._kept.get(clients)
        if kept is None or kept.stale or kept.service is not service:
            kept = await Kept.create(service, clients)
            self._kept[clients] = kept
        self._stop_timer(clients)
        kept.users += 1
        return Executor(kept, self._released(clients, kept))

    async def forget(self) -> None:
        """Drop all executors, after the runtime has ended."""
        for clients in list(self._kept):
            self._stop_timer(clients)
        self._kept.clear()
        await asyncio.gather(*self._disposing)

    def _released(self, clients: int, kept: Kept) -> Callable[[], None]:
        def released() -> None:
            kept.users -= 1
            if kept.users > 0:
                return
            if self._kept.get(clients) is not kept or kept.stale:
                self._dispose(kept)
                return
            self._kept[clients] = self._kept.pop(clients)
            loop = asyncio.get_running_loop()
            self._timers[clients] = loop.call_later(IDLE_SECONDS, self._drop, clients)
            if len(self._timers) > MOST_IDLE:
                self._drop(next(one for one in self._kept if one in self._timers))

        return released

    def _drop(self, clients: int) -> None:
        self._stop_timer(clients)
        self._dispose(self._kept.pop(clients))

    def _dispose(self, kept: Kept) -> None:
        task = asyncio.create_task(kept.close())
        self._disposing.add(task)
        task.add_done_callback(self._disposing.discard)

    def _stop_timer(self, clients: int) -> None:
        timer = self._timers.pop(clients, None)
        if timer is not None:
            timer.cancel()
