"""The C++ runtime that sessions compute in, replaced when it is still busy with abandoned work.

A computation cannot be cancelled: the runtime continues it, and an endless one would occupy a processor for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Final

from fedbroker.log import get_logger
from fedbroker.runtime.executor import Executor
from fedbroker.runtime.resources import computes
from fedbroker.runtime.runtime import Runtime

__all__ = ["Lease", "Runtimes"]

_log = get_logger(__name__)

SILENT_SECONDS: Final = 0.9
"""Seconds. Disposing of an executor takes milliseconds: a runtime that needs longer than this has stopped. Below the
time limit of ``Executor.close``, so that a close that timed out counts.
"""

MAX_RETIRED: Final = 4
"""Retired runtimes that are kept for their sessions; beyond that the oldest ends, and its sessions are lost."""

IDLE_SECONDS: Final = 60.0
"""How long an idle retired runtime that holds values is kept."""


@dataclass(slots=True, eq=False)
class _Hosted:
    """A runtime, the number of its open executors, and how many of them compute now."""

    runtime: Runtime
    users: int = 0
    in_use: int = 0
    retired: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """An executor, to be released to its :class:`Runtimes`.

    Attributes:
        executor: the leased executor.
        hosted: the runtime that it is in.
    """

    executor: Executor
    hosted: _Hosted
    _start_idle_timer: Callable[[_Hosted], None]

    @contextlib.contextmanager
    def in_use(self) -> Generator[None]:
        """Mark the executor as in use: while a result is awaited, even a retired runtime is kept."""
        self.hosted.in_use += 1
        try:
            yield
        finally:
            self.hosted.in_use -= 1
            if self.hosted.retired:
                self._start_idle_timer(self.hosted)


class Runtimes:
    """One runtime for new sessions, and a few retired ones until their last session has ended.

    Args:
        make: returns a new runtime, not started.

    Attributes:
        retired: how many runtimes were retired because they were busy with abandoned work.
    """

    retired: int

    def __init__(self, make: Callable[[], Runtime]) -> None:
        self._make = make
        self._hosted: list[_Hosted] = [_Hosted(make())]
        self._ending: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._restarts_before = 0  # of the runtimes that have ended
        self.retired = 0

    @property
    def restarts(self) -> int:
        """Number of times that a runtime died and was restarted; may be read from any thread."""
        return self._restarts_before + sum(hosted.runtime.restarts for hosted in list(self._hosted))

    @property
    def pid(self) -> int | None:
        """Host process's id of the runtime for new sessions; None if it does not run."""
        return self._hosted[-1].runtime.pid

    async def start(self) -> None:
        """Start the runtime, so that the first session finds it ready.

        Raises:
            RuntimeUnavailable: it cannot be started or isolated.
        """
        await self._hosted[-1].runtime.start()

    async def executor(self, clients: int) -> Executor:
        """Return an executor with this number of clients, in use until it is closed.

        Raises:
            RuntimeUnavailable: no executor is available.
        """
        lease = await self.lease(clients)
        work = contextlib.ExitStack()
        work.enter_context(lease.in_use())
        lease.executor.on_close(work.close)
        return lease.executor

    async def lease(self, clients: int) -> Lease:
        """Lease an executor with this number of clients.

        Raises:
            RuntimeUnavailable: no executor is available.
        """
        hosted = self._hosted[-1]
        hosted.users += 1
        try:
            executor = await hosted.runtime.executor(clients)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._retire(hosted, "it returned no executor in time")
            hosted.users -= 1
            self._end_unused()
            raise
        executor.on_close(partial(self._on_closed, hosted, executor))
        return Lease(executor, hosted, self._start_idle_timer)

    async def release(self, lease: Lease, *, busy: bool = False) -> None:
        """Dispose of an executor. Bounded in time.

        Args:
            lease: the executor's lease.
            busy: its last computation was abandoned and may still run; its runtime then takes no new sessions.
        """
        hosted = lease.hosted
        if busy:
            self._retire(hosted, "a computation in it was abandoned")
        started = asyncio.get_running_loop().time()
        try:
            await lease.executor.close()
        finally:
            if asyncio.get_running_loop().time() - started > SILENT_SECONDS:
                self._retire(hosted, "it does not respond")
            self._end_unused()

    async def close(self) -> None:
        """End all runtimes. Bounded in time; may be called twice."""
        for task in self._watching:
            task.cancel()
        for hosted in self._hosted:
            _stop_timer(hosted)
        closing = [hosted.runtime.close() for hosted in self._hosted]
        await asyncio.gather(*closing, *self._ending)
        await asyncio.gather(*self._watching, return_exceptions=True)

    def _on_closed(self, hosted: _Hosted, executor: Executor) -> None:
        """Account for a closed executor; watch its runtime if calls in it may still be running."""
        hosted.users -= 1
        if executor.unfinished and not hosted.retired:
            watch = asyncio.create_task(self._watch(hosted), name="watch a runtime")
            self._watching.add(watch)
            watch.add_done_callback(self._watching.discard)
        self._end_unused()

    async def _watch(self, hosted: _Hosted) -> None:
        pid = hosted.runtime.pid
        if pid is not None and await computes(pid):
            self._retire(hosted, "it still runs an abandoned computation")
            self._end_unused()

    def _retire(self, hosted: _Hosted, reason: str) -> None:
        """Give a runtime no new sessions."""
        if hosted.retired:
            return
        hosted.retired = True
        self.retired += 1
        _log.info("runtime_retired", reason=reason)
        if hosted is self._hosted[-1]:
            self._hosted.append(_Hosted(self._make()))
        retired = [other for other in self._hosted if other.retired]
        if len(retired) > MAX_RETIRED:
            self._end(retired[0], "too many runtimes are retired")
        self._start_idle_timer(hosted)

    def _start_idle_timer(self, hosted: _Hosted) -> None:
        """Start the timer that ends an idle retired runtime. Until then sessions can use their values in it."""
        _stop_timer(hosted)
        if hosted.retired and hosted.in_use == 0 and hosted in self._hosted:
            loop = asyncio.get_running_loop()
            hosted.timer = loop.call_later(IDLE_SECONDS, self._end, hosted, "it is idle")

    def _end_unused(self) -> None:
        """End the retired runtimes that have no users."""
        for hosted in [hosted for hosted in self._hosted if hosted.retired and hosted.users == 0]:
            self._end(hosted, "")

    def _end(self, hosted: _Hosted, reason: str) -> None:
        """End a runtime even if it has users. Not awaited, since a stopped one takes seconds to end."""
        if hosted not in self._hosted:
            return
        _stop_timer(hosted)
        if hosted.users:
            _log.warning("runtime_ended", reason=reason, sessions=hosted.users)
        self._hosted.remove(hosted)
        self._restarts_before += hosted.runtime.restarts
        task = asyncio.create_task(hosted.runtime.close(), name="end a retired runtime")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _stop_timer(hosted: _Hosted) -> None:
    if hosted.timer is not None:
        hosted.timer.cancel()
        hosted.timer = None
