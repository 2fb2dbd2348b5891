"""Progress of a context's invocations on standard error. No error of the display reaches the computation."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial

from fedbroker.context.progress.display import Display, display_of
from fedbroker.context.progress.state import Invocation
from fedbroker.errors import FedbrokerError
from fedbroker.session.events import Event, Listener
from fedbroker.session.session import Session

__all__ = ["Progress", "Watch"]


class Progress:
    """The progress of one context's invocations.

    Args:
        cohort: name of the cohort.
        mode: False for no progress; True for a live display even if standard error is no terminal; None for a live
            display on a terminal and plain lines elsewhere.
    """

    def __init__(self, cohort: str, mode: bool | None) -> None:
        self._cohort = cohort
        self._mode = mode

    def watch(self) -> Watch:
        """Return the progress of a new invocation."""
        return Watch(self._cohort, self._display)

    @property
    def listener(self) -> Listener | None:
        """The listener to the context's events; None without progress."""
        return None if self._mode is False else self._on_event

    def _on_event(self, event: Event) -> None:
        display = self._display()
        if display is not None:
            display.on_event(self._cohort, event)

    def _display(self) -> Display | None:
        if self._mode is False or sys.stderr is None:
            return None
        if self._mode:
            return display_of(live=True, force=True)
        return display_of(live=_is_terminal(), force=False)


class Watch:
    """The progress of one invocation; not shown if it has no client stages."""

    def __init__(self, cohort: str, display: Callable[[], Display | None]) -> None:
        self._cohort = cohort
        self._find = display
        self._display: Display | None = None
        self._began = time.monotonic()
        self._invocation: Invocation | None = None
        self._session: Session | None = None

    def planned(self, name: str, stages: int) -> None:
        """Show the invocation, if it has client stages."""
        self._display = self._find() if stages else None
        if self._display is not None:
            self._invocation = Invocation(name, self._cohort, stages, self._began)
            self._display.begin(self._invocation)

    def waits(self) -> None:
        """Show that the invocation waits for silos."""
        if self._display is not None and self._invocation is not None:
            self._display.change(partial(setattr, self._invocation, "phase", "waiting"))

    def runs(self, session: Session) -> None:
        """Show that the invocation runs in a session; each attempt has a session of its own."""
        self._session = session
        if self._display is not None and self._invocation is not None:
            members = [member.name for member in session.members]
            self._display.change(partial(self._invocation.attempt, session.session_id, members))

    async def ended(self, error: BaseException | None = None) -> None:
        """Show the end of the invocation and its error, if any."""
        if self._display is None or self._invocation is None:
            return
        invocation, text = self._invocation, _short_text(error)
        report = None if self._session is None else self._session.recorder.report
        await self._display.end(invocation, lambda now: f"{invocation.name}: {invocation.summary(report, text, now)}")


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    except ValueError:  # standard error was closed
        return False


def _short_text(error: BaseException | None) -> str:
    """Return a short text for an error; the error itself says more."""
    if error is None:
        return ""
    if isinstance(error, FedbrokerError):
        return str(error.code)
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
