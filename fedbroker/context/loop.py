"""An event loop in its own thread, so that the broker's heartbeats go on while the program's thread is busy.

A forked child gets a typed error or a context that works, and always ends.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from fedbroker.errors import ContextClosed, RuntimeUnavailable

__all__ = ["LoopThread", "check_process", "runtime_starts"]

T = TypeVar("T")

CANCEL_SECONDS: Final = 10.0
"""How long running coroutines may take to clean up once they are cancelled; a session says goodbye within 5 s."""

STOP_SECONDS: Final = 60.0
"""How long a caller waits for the thread's end; the broker's connection and the C++ runtime have shorter bounds."""


class LoopThread:
    """Runs coroutines for callers in other threads. Starts with the first one, and never again after :meth:`stop`.

    A forked child has no such thread: there, running raises and stopping does nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        # Weak, and not emptied by hand: one whose caller has given up may still be cleaning up.
        self._submitted: weakref.WeakSet[Coroutine[Any, Any, Any]] = weakref.WeakSet()

    @property
    def closed(self) -> bool:
        """True after :meth:`stop` was called."""
        return self._closed

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that made the object."""
        return os.getpid() != self._process

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``coroutine``; cancelling the future cancels it.

        Raises:
            ContextClosed: the thread was stopped, or belongs to the parent of a forked process.
        """
        if self.forked:  # before the lock, which the parent may have held at the fork
            coroutine.close()
            raise ContextClosed(
                "the context belongs to another process, from which this one was forked",
                hint="make a context in this process, or start it with multiprocessing's spawn method",
            )
        with self._lock:
            if self._closed:
                coroutine.close()
                raise _closed()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            quiet = _quiet(coroutine)
            self._submitted.add(quiet)
            # Under the lock, so that the loop sees it before it sees the stop that would cancel it.
            return asyncio.run_coroutine_threadsafe(quiet, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` to its end; an interrupt (Ctrl-C) cancels it and is raised.

        Raises:
            ContextClosed: the thread was stopped, before the call or during it.
        """
        future = self.submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._closed:
                raise _closed() from None
            raise
        except BaseException:
            future.cancel()
            raise

    async def run_async(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run ``coroutine`` in the thread, awaited from another event loop; cancelling the wait cancels it.

        Raises:
            ContextClosed: the thread was stopped, before the call or during it.
        """
        future = self.submit(coroutine)
        try:
            waited = asyncio.wrap_future(future)
            waited.add_done_callback(_retrieve)
            return await waited
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise _closed() from None
            raise

    def stop(self, cleanup: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel running coroutines, run ``cleanup``, and end the thread. Bounded in time; idempotent.

        Called on the thread itself it starts all that and does not wait.
        """
        if self.forked:
            return
        with self._lock:
            first, self._closed = not self._closed, True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        if first:
            asyncio.run_coroutine_threadsafe(self._shut_down(cleanup), loop)
        if threading.current_thread() is not thread:
            thread.join(STOP_SECONDS)

    async def _shut_down(self, cleanup: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            running = [task for task in asyncio.all_tasks(loop) if task.get_coro() in self._submitted]
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running, timeout=CANCEL_SECONDS)
            if cleanup is not None:
                await cleanup()
        finally:
            loop.call_soon(loop.stop)


async def _quiet(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose error asyncio shall not report: after an interrupt, its caller no longer waits for it."""
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    task.add_done_callback(_retrieve)
    return await coroutine


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _closed() -> ContextClosed:
    return ContextClosed("the context is closed", hint="make another one")


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


_runs_in: int | None = None


def runtime_starts() -> None:
    """Remember that this process uses gRPC, which no child that is forked from now on can."""
    global _runs_in
    _runs_in = os.getpid()


def check_process() -> None:
    """Raise RuntimeUnavailable in a child of a process that had used a C++ runtime before the fork."""
    if _runs_in not in (None, os.getpid()):
        raise RuntimeUnavailable(
            "a context had computed in the process from which this one was forked, whose threads are missing here",
            hint="start this process with multiprocessing's spawn method, or fork before the first computation",
        )


def _keep_tensorflow_alive() -> None:
    """Keep TensorFlow's eager context from being destroyed when the process ends.

    In a forked child its destructor waits for threads of pools that are only in the parent: the child would never end.
    That also happens where the child has made the eager context, since TensorFlow shares pools that the parent made. A
    process cannot tell whether it was forked before it imported this module, so this happens in each.
    """
    module = sys.modules.get("tensorflow.python.eager.context")
    handle = getattr(getattr(module, "_context", None), "_context_handle", None)
    if handle is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


atexit.register(_keep_tensorflow_alive)  # a forked child has its parent's exit handlers
