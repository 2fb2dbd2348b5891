"""Blocking calls in threads: they never keep the process from ending, and a source's calls can be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from fedbroker_worker.errors import Problem, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "CancellableCalls", "Ended", "in_thread", "still_running"]

T = TypeVar("T")

_PREFIX: Final = "blocking: "


class Ended(Exception):
    """A call ended with an exception that would have another meaning in the awaiting task.

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
        Ended: ``function`` raises ``StopIteration`` or an exception that is not an ``Exception``.
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
            errors.append(_bearable(error))
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now, and no task waits
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name=_PREFIX + name, daemon=True).start()
    return await result


def _bearable(error: BaseException) -> Exception:
    """Return the exception itself if a future can carry it, else an :class:`Ended` in its place."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    ended = Ended(f"it ended with {type(error).__name__}: {error}".removesuffix(": "))
    ended.__cause__ = error
    return ended


def still_running() -> bool:
    """Return whether any call made by :func:`in_thread` has not returned yet."""
    return any(thread.name.startswith(_PREFIX) for thread in threading.enumerate())


class Call:
    """A running call, as its function sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._cancels: list[Callable[[], None]] = []

    @property
    def ended(self) -> bool:
        """True after the call was ended: its result will be discarded."""
        return self._ended.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait for the given time, or until the call is ended; return whether it is ended."""
        return self._ended.wait(seconds)

    def on_end(self, cancel: Callable[[], None]) -> None:
        """Register ``cancel``, which another thread calls when the call is ended; call it now if it already is."""
        with self._lock:
            if not self.ended:
                self._cancels.append(cancel)
                return
        cancel()

    def off_end(self, cancel: Callable[[], None]) -> None:
        """Remove ``cancel``, because its resource is gone. Waits while ``cancel`` runs."""
        with self._lock:
            if cancel in self._cancels:
                self._cancels.remove(cancel)

    def end(self) -> None:
        """End the call: mark it as ended and call the registered functions."""
        with self._lock:
            self._ended.set()
            for cancel in self._cancels:
                cancel()
            self._cancels.clear()


class _Result(Generic[T]):
    """The result or the error of a call; valid once ``done`` is set."""

    def __init__(self, call: Call) -> None:
        self.done = threading.Event()
        self.values: list[T] = []
        self.error: BaseException | None = None
        call.on_end(self.done.set)


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

        The function runs in its own daemon thread, so that it can be abandoned: a call that is ended raises at once,
        even if the function does not return.

        Args:
            function: checks its :class:`Call` from time to time, or registers how to cancel it.
            reading: True if :meth:`interrupt` ends the call.

        Raises:
            SourceError: the call was ended, or the source is closed.
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
        if call.ended:
            raise SourceError(
                self._source,
                "reading was interrupted" if reading else "it is closed",
                problem=Problem.INTERRUPTED if reading else Problem.CLOSED,
            )
        if result.error is not None:
            raise result.error
        return result.values[0]

    def interrupt(self) -> None:
        """End the running reads."""
        self._end(reads_only=True)

    def close(self) -> None:
        """End every running call, and refuse new ones."""
        with self._lock:
            self._closed = True
        self._end(reads_only=False)

    def _end(self, *, reads_only: bool) -> None:
        with self._lock:
            calls = [call for call, reading in self._running.items() if reading or not reads_only]
        for call in calls:
            call.end()
