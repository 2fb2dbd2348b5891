"""The C++ runtime that sessions compute in, replaced when it is still busy with what nobody waits for any more.

A computation cannot be cancelled: the runtime goes on with it, and one that never ends would keep a core for ever.
Imports runtime and the base.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedbroker.runtime import Executor, Runtime

__all__ = ["Lease", "Runtimes"]

_log = get_logger(__name__)

SILENT: Final = 0.9
"""Seconds: a runtime that takes longer than this to forget an executor, which it does in milliseconds, has stopped."""


@dataclass(slots=True, eq=False)
class _Hosted:
    """A runtime and how many executors in it are in use."""

    runtime: Runtime
    users: int = 0
    retired: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """An executor, to be given back to its :class:`Runtimes`.

    Attributes:
        executor: it.
    """

    executor: Executor
    _hosted: _Hosted


class Runtimes:
    """One runtime for new sessions, and any number of retired ones until their last session has ended.

    Args:
        make: a new runtime, not started.

    Attributes:
        retired: how many have got no new sessions any more, since they were busy with what was given up.
    """

    retired: int

    def __init__(self, make: Callable[[], Runtime]) -> None:
        self._make = make
        self._hosted: list[_Hosted] = [_Hosted(make())]
        self._ending: set[asyncio.Task[None]] = set()
        self._restarts_before = 0  # of those that have ended
        self.retired = 0

    @property
    def restarts(self) -> int:
        """How often a runtime had died and was started anew; may be read from any thread."""
        return self._restarts_before + sum(hosted.runtime.restarts for hosted in list(self._hosted))

    async def start(self) -> None:
        """Start the runtime, so that the first session finds it ready.

        Raises:
            RuntimeUnavailable: it cannot be started or isolated.
        """
        await self._hosted[-1].runtime.start()

    async def lease(self, clients: int) -> Lease:
        """An executor with so many clients.

        Raises:
            RuntimeUnavailable: it cannot be had.
        """
        hosted = self._hosted[-1]
        hosted.users += 1
        try:
            return Lease(await hosted.runtime.executor(clients), hosted)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._retire(hosted, "it gave no executor in time")
            hosted.users -= 1
            self._tidy()
            raise

    async def give_back(self, lease: Lease, *, busy: bool = False) -> None:
        """Dispose of an executor. Bounded in time.

        Args:
            lease: it.
            busy: its last computation was given up and may go on; its runtime takes no new sessions then.
        """
        hosted = lease._hosted
        if busy:
            self._retire(hosted, "a computation in it was given up")
        started = asyncio.get_running_loop().time()
        try:
            await lease.executor.close()
        finally:
            if asyncio.get_running_loop().time() - started > SILENT:
                self._retire(hosted, "it does not answer")
            hosted.users -= 1
            self._tidy()

    async def close(self) -> None:
        """End all of them. Bounded in time; may be called twice."""
        await asyncio.gather(*(hosted.runtime.close() for hosted in self._hosted), *self._ending)

    def _retire(self, hosted: _Hosted, why: str) -> None:
        """Give it no new sessions."""
        if hosted.retired:
            return
        hosted.retired = True
        self.retired += 1
        _log.info("runtime retired", reason=why)
        if hosted is self._hosted[-1]:
            self._hosted.append(_Hosted(self._make()))

    def _tidy(self) -> None:
        """End those that are retired and have no users; not waited for, since a stopped one takes seconds to end."""
        idle = [hosted for hosted in self._hosted if hosted.retired and hosted.users == 0]
        self._hosted = [hosted for hosted in self._hosted if hosted not in idle]
        self._restarts_before += sum(hosted.runtime.restarts for hosted in idle)
        for hosted in idle:
            task = asyncio.create_task(hosted.runtime.close(), name="end a retired runtime")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
