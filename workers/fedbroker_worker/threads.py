"""Blocking calls in threads that never keep the process from ending."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Ended", "in_thread", "still_running"]

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
