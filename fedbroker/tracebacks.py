"""Tracebacks that end at the user's line: frames of fedbroker, TFF and asyncio below it say nothing about a program.

``FEDBROKER_DEBUG=1`` keeps all frames and causes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeAlias

__all__ = ["install_hook", "is_debugging", "rendered", "shorten", "users_part"]

_ExceptHook: TypeAlias = Callable[[type[BaseException], BaseException, TracebackType | None], object]

_HIDDEN: Final = frozenset(
    ("IPython", "asyncio", "concurrent", "fedbroker", "fedbroker_worker", "ipykernel", "tensorflow_federated")
)
"""Packages whose frames are not the user's."""

_CALLS: Final = frozenset(("fedbroker", "tensorflow_federated"))
"""Packages of which one is in each call of ours. An error that fedbroker raised again has TFF's frame only."""


def is_debugging() -> bool:
    """Return whether ``FEDBROKER_DEBUG`` asks for all frames."""
    return os.environ.get("FEDBROKER_DEBUG", "0") not in {"", "0"}


def shorten(error: BaseException, context: BaseException | None) -> None:
    """Remove the frames so far, and the causes, from an error that a public method is about to raise again.

    A bare ``raise`` after it adds no frame of that method, so the traceback starts where the method was called. The
    frames would also keep large values alive for as long as the error is.

    Args:
        error: the error.
        context: the exception that the caller was handling when it called the method.
    """
    if is_debugging():
        return
    earlier = getattr(error, "earlier", None)
    if isinstance(earlier, BaseException):
        shorten(earlier, None)
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None if context is error else context


def users_part(trace: TracebackType | None, *, is_ours: bool) -> TracebackType | None:
    """Return a traceback of the user's frames alone; the whole one if it has none.

    Args:
        trace: the traceback.
        is_ours: the error is one of fedbroker's. Another one, such as an interruption, must be of a call of ours.
    """
    entries: list[TracebackType] = []
    entry = trace
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    kept = [entry for entry in entries if _package(entry) not in _HIDDEN]
    if not kept or (not is_ours and _CALLS.isdisjoint(map(_package, entries))):
        return trace
    shortened: TracebackType | None = None
    for entry in reversed(kept):
        shortened = TracebackType(shortened, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shortened


def rendered(error: BaseException) -> list[str]:
    """Return the lines that IPython shows for an error: the user's frames, in IPython's own style."""
    shell = sys.modules["IPython"].get_ipython()
    trace, offset = (error.__traceback__, 1) if is_debugging() else (users_part(error.__traceback__, is_ours=True), 0)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, trace, tb_offset=offset)
    return lines


def install_hook(kinds: tuple[type[BaseException], ...]) -> None:
    """Show the user's frames alone where an error of these kinds, raised in a call of ours, ends the program."""
    if not isinstance(sys.excepthook, _Hook):
        sys.excepthook = _Hook(sys.excepthook, kinds)


class _Hook:
    """A ``sys.excepthook`` in front of the one that was set before."""

    def __init__(self, before: _ExceptHook, kinds: tuple[type[BaseException], ...]) -> None:
        self._before = before
        self._kinds = kinds

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, self._kinds) and not is_debugging():
            is_ours = not isinstance(error, KeyboardInterrupt)
            error.__traceback__ = trace = users_part(trace, is_ours=is_ours)
        self._before(kind, error, trace)


def _package(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
