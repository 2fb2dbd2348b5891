"""Blocking calls in daemon threads, which do not delay the exit of the process; a source's calls can be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fedbroker_worker.errors import Problem, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "CallAborted", "CancellableCalls", "in_thread", "still_running"]

T = TypeVar("T")

_PREFIX: Final = "blocking: "
"""The beginning of the threads' names, by which :func:`still_running` finds them."""


class CallAborted(Exception):
    """A call raised an exception that would have another meaning in the awaiting task.

    ``SystemExit`` and ``KeyboardInterrupt`` would end the event loop, ``CancelledError`` would look as if the awaiting
    task were cancelled, and asyncio does not accept ``StopIteration``, so that the caller would wait for ever.
    """


async def in_thread(function: Callable[[], T], name: str) -> T:
    """Run a blocking call in its own daemon thread, and return its result.

    Unlike with ``asyncio.to_thread``, calls that hang do not use up a pool that others need, and the interpreter does
    not wait for them when it exits. Cancellation abandons the result, but does not stop the call.

    Args:
        function: the blocking function.
        name: the thread's name.

    Raises:
        CallAborted: ``function`` raises ``StopIteration`` or an exception that is not an ``Exception``.
        Exception: any other exception of ``function``.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    # Moved, not shared: a thread that is still ending when the interpreter exits must hold no reference.
    values: list[T] = []
    errors: list[Exception] = []

    def settle() -> None:
        error, value = (errors.pop(), None) if errors else (None, values.pop())
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            values.append(function())
        except BaseException as error:  # of any kind: the awaiting task gets it
            errors.append(_as_exception(error))
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now, and no task waits
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name=_PREFIX + name, daemon=True).start()
    return await result


def _as_exception(error: BaseException) -> Exception:
    """Return the exception itself if a future can carry it, else a :class:`CallAborted` in its place."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    aborted = CallAborted(f"aborted by {type(error).__name__}: {error}".removesuffix(": "))
    aborted.__cause__ = error
    return aborted


def still_running() -> bool:
    """Return whether any call made by :func:`in_thread` has not returned yet."""
    return any(thread.name.startswith(_PREFIX) for thread in threading.enumerate())


class Call:
    """A running call, as its function sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """True after the call was cancelled: its result will be discarded."""
        return self._cancelled.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait for the given time, or until the call is cancelled; return whether it is cancelled."""
        return self._cancelled.wait(seconds)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Register a function that another thread calls on cancellation; call it now if that has happened."""
        with self._lock:
            if not self.cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def off_cancel(self, callback: Callable[[], None]) -> None:
        """Remove a registered function, because its resource is gone. Waits while the function runs."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def cancel(self) -> None:
        """Cancel the call: mark it as cancelled and call the registered functions."""
        with self._lock:
            self._cancelled.set()
            for callback in self._callbacks:
                callback()
            self._callbacks.clear()


class _Result(Generic[T]):
    """The result or the error of a call; valid once ``done`` is set."""

    def __init__(self, call: Call) -> None:
        self.done = threading.Event()
        self.values: list[T] = []
        self.error: BaseException | None = None
        call.on_cancel(self.done.set)


class CancellableCalls:
    """The calls of one source.

    Args:
        source: its name, for errors.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._running: dict[Call, bool] = {}  # value: True for a read
        self._closed = False

    def run(self, function: Callable[[Call], T], *, reading: bool = False) -> T:
        """Run a function and return its result.

        The function runs in its own daemon thread, so that it can be abandoned: a cancelled call raises at once,
        even if the function does not return.

        Args:
            function: checks its :class:`Call` from time to time, or registers a function that cancels it.
            reading: True if :meth:`interrupt` cancels the call.

        Raises:
            SourceError: the call was cancelled, or the source is closed.
            Exception: any exception of the function.
        """
        call = Call()
        with self._lock:
            if self._closed:
                raise SourceError(self._source, "it is closed", problem=Problem.CLOSED)
            self._running[call] = reading
        result: _Result[T] = _Result(call)

        def work() -> None:
            try:
                result.values.append(function(call))
            except BaseException as error:
                result.error = error
            result.done.set()

        try:
            threading.Thread(target=work, name=f"source {self._source}", daemon=True).start()
            result.done.wait()
        finally:
            with self._lock:
                self._running.pop(call, None)
        if call.cancelled:
            raise SourceError(
                self._source,
                "reading was interrupted" if reading else "it is closed",
                problem=Problem.INTERRUPTED if reading else Problem.CLOSED,
            )
        if result.error is not None:
            raise result.error
        return result.values[0]

    def interrupt(self) -> None:
        """Cancel the running reads."""
        self._cancel(reads_only=True)

    def close(self) -> None:
        """Cancel every running call, and refuse new ones."""
        with self._lock:
            self._closed = True
        self._cancel(reads_only=False)

    def _cancel(self, *, reads_only: bool) -> None:
        with self._lock:
            calls = [call for call, reading in self._running.items() if reading or not reads_only]
        for call in calls:
            call.cancel()
