"""Progress of a context's invocations. No error of the display reaches the computation."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from typing import Literal

from fedbroker.context.progress.display import Display, display_of
from fedbroker.context.progress.notebook import notebook_shell
from fedbroker.context.progress.state import Invocation
from fedbroker.errors import FedbrokerError
from fedbroker.session.events import Event
from fedbroker.session.session import Session

__all__ = ["Progress", "Watch"]


class Progress:
    """The progress of one context's invocations.

    Args:
        cohort: name of the cohort.
        live: True for a live display even if standard error is no terminal; None for a live display on a terminal and
            plain lines elsewhere. A notebook has a display in its cells.
    """

    def __init__(self, cohort: str, live: Literal[True] | None) -> None:
        self._cohort = cohort
        self._live = live

    def watch(self, name: str, stages: int, began: float, run: str = "") -> Watch | None:
        """Show an invocation that has client stages; return None where nothing can be shown.

        Args:
            name: name of its computation.
            stages: number of its client stages.
            began: start time on the monotonic clock.
            run: id of the program's run that it is part of, or empty.
        """
        display = self._display()
        if display is None:
            return None
        return Watch(display, Invocation(name, self._cohort, stages, began, run=run, cell=display.cell()))

    def on_event(self, event: Event) -> None:
        """Update the display from an event of the context."""
        display = self._display()
        if display is not None:
            display.on_event(self._cohort, event)

    def _display(self) -> Display | None:
        if notebook_shell() is not None:
            return display_of("notebook")
        if sys.stderr is None:
            return None
        if self._live:
            return display_of("forced")
        return display_of("live" if _is_terminal() else "lines")


class Watch:
    """The progress of one invocation."""

    def __init__(self, display: Display, invocation: Invocation) -> None:
        self._display = display
        self._invocation = invocation
        self._session: Session | None = None
        display.begin(invocation)

    def waits(self) -> None:
        """Show that the invocation waits for silos."""
        self._display.change(partial(setattr, self._invocation, "phase", "waiting"))

    def runs(self, session: Session) -> None:
        """Show that the invocation runs in a session; each attempt has a session of its own."""
        self._session = session
        members = [member.name for member in session.members]
        self._display.change(partial(self._invocation.attempt, session.session_id, members))

    async def ended(self, error: BaseException | None = None) -> None:
        """Show the end of the invocation and its error, if any."""
        invocation, text = self._invocation, _short_text(error)
        report = None if self._session is None else self._session.recorder.report
        await self._display.end(
            invocation,
            lambda now: f"{invocation.name}: {invocation.summary(report, text, now)}",
            failed=error is not None,
        )


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
