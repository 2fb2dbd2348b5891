"""Blocking calls of a source that another thread may end, also where the library that makes them cannot be stopped.

Imports this distribution's errors.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

from fedbroker_worker.errors import SourceError
from fedbroker_worker.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Call", "CancellableCalls"]

T = TypeVar("T")


class Call:
    """One call under way, as the function that makes it sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._cancels: list[Callable[[], None]] = []

    @property
    def ended(self) -> bool:
        """Whether nobody waits for it any more: what it returns is thrown away."""
        return self._ended.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait for so long, or until the call is ended; whether it is."""
        return self._ended.wait(seconds)

    def on_end(self, cancel: Callable[[], None]) -> None:
        """Have ``cancel`` called, in another thread, when the call is ended; now, if it is already."""
        with self._lock:
            if not self.ended:
                self._cancels.append(cancel)
                return
        cancel()

    def off_end(self, cancel: Callable[[], None]) -> None:
        """Forget ``cancel``: what it would end is no longer there. Waits while it is being called."""
        with self._lock:
            if cancel in self._cancels:
                self._cancels.remove(cancel)

    def end(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._ended.set()
            for cancel in self._cancels:
                cancel()
            self._cancels.clear()


class _Result(Generic[T]):
    """What a call came to, once ``done`` is set."""

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
        self._running: dict[Call, bool] = {}  # and whether it is a read
        self._closed = False

    def run(self, function: Callable[[Call], T], *, reading: bool = False) -> T:
        """What the function returns.

        It runs in a daemon thread of its own, so that it can be left behind: a call that is ended raises at once,
        whether or not the function returns.

        Args:
            function: looks at its :class:`Call` from time to time, or says how to cancel it.
            reading: whether :meth:`interrupt` ends it.

        Raises:
            SourceError: it was ended, or the source is closed.
            Exception: whatever the function raises.
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
        """End the reads under way."""
        self._end(reads_only=True)

    def close(self) -> None:
        """End every call under way; further ones are refused."""
        with self._lock:
            self._closed = True
        self._end(reads_only=False)

    def _end(self, *, reads_only: bool) -> None:
        with self._lock:
            calls = [call for call, reading in self._running.items() if reading or not reads_only]
        for call in calls:
            call.end()
