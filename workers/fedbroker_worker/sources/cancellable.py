"""Blocking calls of a source that another thread can end, even if the library underneath cannot be stopped."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from fedbroker_worker.errors import Problem, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "CancellableCalls"]

T = TypeVar("T")


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
