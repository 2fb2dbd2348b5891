"""Blocking calls in threads that never keep the process from ending. Imports the standard library only."""

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
    """A call ended with an exception that would do something else to whoever awaits it.

    ``SystemExit`` and ``KeyboardInterrupt`` would end the event loop, ``CancelledError`` would look as if the awaiting
    task were cancelled, and asyncio takes no ``StopIteration``, so that nobody would ever hear of it.
    """


async def in_thread(function: Callable[[], T], name: str) -> T:
    """The result of a blocking call, made in a daemon thread of its own.

    Unlike ``asyncio.to_thread``, calls that hang do not use up a pool that others need, and the interpreter does not
    wait for them when it exits. Cancelling gives the result up, not the call.

    Args:
        function: what to call.
        name: of the thread.

    Raises:
        Ended: ``function`` raises a ``StopIteration``, or what is no ``Exception``.
        Exception: whatever else ``function`` raises.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    # Handed over, not shared: a thread that is still on its way out when the interpreter ends must hold nothing.
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
        except BaseException as error:  # of whatever kind: who waits is told
            errors.append(_bearable(error))
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name=_PREFIX + name, daemon=True).start()
    return await result


def _bearable(error: BaseException) -> Exception:
    """The same, or an exception that stands for it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    ended = Ended(f"it ended with {type(error).__name__}: {error}".removesuffix(": "))
    ended.__cause__ = error
    return ended


def still_running() -> bool:
    """Whether any call made by :func:`in_thread` has not returned yet."""
    return any(thread.name.startswith(_PREFIX) for thread in threading.enumerate())
