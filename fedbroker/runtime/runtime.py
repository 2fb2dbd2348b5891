"""One C++ runtime: start, restart after a crash, stop, and a cache of its executors.

An executor holds TensorFlow's sessions of the computations called in it. It is kept while in use and for a while after,
so that the next call of the same computation skips their preparation and continues their random numbers, as in TFF's
own contexts. To the runtime, all executors with the same number of clients are one executor in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from fedbroker.errors import RuntimeUnavailable
from fedbroker.log import get_logger
from fedbroker.runtime.executor import Executor, SharedExecutor
from fedbroker.runtime.host.confinement import Confinement, Mode
from fedbroker.runtime.process import Isolation, RuntimeProcess, installed_binary
from fedbroker.runtime.resources import StallWatch, share_of_memory
from fedbroker.runtime.service import Service

__all__ = ["ExecutorCache", "Isolation", "Runtime"]

# The first attempt may meet a runtime whose death was not reported yet.
_ATTEMPTS = 2
_STALLED = "it was ended, since it made no progress while a request was pending"
_THREW = "it was ended, since it threw an exception"

IDLE_SECONDS: Final = 60.0
"""How long an unused executor is kept: its memory grows with each new computation."""

MAX_IDLE: Final = 4
"""Unused executors that are kept: one for each number of clients, of which a program has few."""

_log = get_logger(__name__)


class Runtime:
    """One ``worker_binary``, accessible to this process only.

    Args:
        isolation: ``"namespace"``: in a user and network namespace of its own that holds a loopback only;
            ``"none"``: on the host's network, for hosts that isolate by other means.
        binary: path of ``worker_binary``; None for that of the installed TFF.
        memory: bytes that it may allocate; larger allocations fail. None or 0 for three quarters of the available
            memory.
        log: called with each line that it writes; None logs them at debug level.
        start_timeout: seconds that a start may take.
        confinement: ``"required"`` refuses to run where the user's files cannot be protected.
        readable: further files and directories that it may read and execute.
        without: defences to leave out, for tests of the others.
    """

    def __init__(
        self,
        *,
        isolation: Isolation = "namespace",
        binary: Path | None = None,
        memory: int | None = None,
        log: Callable[[str], None] | None = None,
        start_timeout: float = 20.0,
        confinement: Mode = "best-effort",
        readable: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> None:
        self._isolation: Isolation = isolation
        self._binary = binary
        self._memory = memory or share_of_memory()
        self._log = log or _log_line
        self._start_timeout = start_timeout
        self._confinement: Mode = confinement
        self._readable = tuple(readable)
        self._without = tuple(without)
        self._lock = asyncio.Lock()
        self._process: RuntimeProcess | None = None
        self._service: Service | None = None
        self._executors = ExecutorCache()
        self._closed = False
        self._broken = False
        self._confined = Confinement({}, {})
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the host process; None if it does not run."""
        return self._process.pid if self._process is not None else None

    @property
    def confinement(self) -> Confinement:
        """Outcome of each defence at the last start; before the first start none is in force."""
        return self._confined

    async def start(self) -> None:
        """Start the runtime unless it runs; it is ready to serve when this returns.

        Raises:
            RuntimeUnavailable: it did not start, could not be isolated, or this object was closed.
        """
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        """End it in under three seconds. May be called again; pending requests and starts raise RuntimeUnavailable."""
        self._closed = True
        if self._process is not None:
            self._process.stop()  # a pending start fails at once and releases the lock
        async with self._lock:
            await self._end()

    async def executor(self, clients: int) -> Executor:
        """Return an executor with this number of clients, to be closed by the caller. Restart a dead runtime.

        Raises:
            RuntimeUnavailable: no executor is available.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            async with self._lock:
                service = await self._running()
            try:
                return await self._executors.get(service, clients)
            except RuntimeUnavailable:
                # The runtime may have died before the exit report arrived.
                if attempt == _ATTEMPTS:
                    raise
                async with self._lock:
                    if self._service is service:
                        await self._end()
                        self.restarts += 1
        raise AssertionError("the loop returns or raises")

    async def _running(self) -> Service:
        if self._closed:
            raise RuntimeUnavailable("the C++ runtime was closed")
        if self._service is not None and self._process is not None and self._process.alive and not self._broken:
            return self._service
        if self._process is not None:
            _log.warning("runtime_died", restarts=self.restarts + 1)
            self.restarts += 1
        await self._end()
        binary = self._binary if self._binary is not None else await asyncio.to_thread(installed_binary)
        process = RuntimeProcess(
            self._isolation,
            binary,
            self._memory,
            self._log,
            self._start_timeout,
            confinement=self._confinement,
            readable=self._readable,
            without=self._without,
        )
        self._process = process
        try:
            await process.start()
        except BaseException:
            self._process = None
            raise
        finally:
            self._confined = process.confinement
        _report(self._confined)
        assert process.pid is not None, "started"
        watch = StallWatch(process.pid, lambda: self._give_up(process, _STALLED))
        self._service = Service(process.target, process.exit_report, lambda: self._give_up(process, _THREW), watch)
        return self._service

    def _give_up(self, process: RuntimeProcess, reason: str) -> None:
        """End a runtime that is no longer reliable, with its values; the next executor is in a new one."""
        if process is self._process:
            _log.warning("runtime_given_up", reason=reason)
            self._broken = True
            process.stop(reason)

    async def _end(self) -> None:
        self._broken = False
        service, self._service = self._service, None
        process, self._process = self._process, None
        if service is not None:
            await service.close()
        await self._executors.forget()
        if process is not None:
            await process.close()


def _report(confinement: Confinement) -> None:
    in_force, missing = " ".join(confinement.in_force), confinement.missing
    if confinement.protects_files:
        _log.info("runtime_confined", in_force=in_force, missing=missing)
    else:
        _log.warning("runtime_unconfined", in_force=in_force, missing=missing)


def _log_line(line: str) -> None:
    _log.debug("runtime_output", line=line)


class ExecutorCache:
    """The executors of one runtime."""

    def __init__(self) -> None:
        self._shared: dict[int, SharedExecutor] = {}  # by number of clients, least recently used first
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._disposing: set[asyncio.Task[None]] = set()

    async def get(self, service: Service, clients: int) -> Executor:
        """Return an executor with this number of clients; the caller closes it.

        Raises:
            RuntimeUnavailable: the runtime is gone.
        """
        shared = self._shared.get(clients)
        if shared is None or shared.stale or shared.service is not service:
            shared = await SharedExecutor.create(service, clients)
            self._shared[clients] = shared
        self._stop_timer(clients)
        shared.users += 1
        return Executor(shared, partial(self._released, clients, shared))

    async def forget(self) -> None:
        """Drop all executors, after the runtime has ended."""
        for clients in list(self._shared):
            self._stop_timer(clients)
        self._shared.clear()
        await asyncio.gather(*self._disposing)

    def _released(self, clients: int, shared: SharedExecutor) -> None:
        shared.users -= 1
        if shared.users > 0:
            return
        if self._shared.get(clients) is not shared or shared.stale:
            self._dispose(shared)
            return
        self._shared[clients] = self._shared.pop(clients)
        loop = asyncio.get_running_loop()
        self._timers[clients] = loop.call_later(IDLE_SECONDS, self._drop, clients)
        if len(self._timers) > MAX_IDLE:
            self._drop(next(number for number in self._shared if number in self._timers))

    def _drop(self, clients: int) -> None:
        self._stop_timer(clients)
        self._dispose(self._shared.pop(clients))

    def _dispose(self, shared: SharedExecutor) -> None:
        task = asyncio.create_task(shared.close())
        self._disposing.add(task)
        task.add_done_callback(self._disposing.discard)

    def _stop_timer(self, clients: int) -> None:
        timer = self._timers.pop(clients, None)
        if timer is not None:
            timer.cancel()
