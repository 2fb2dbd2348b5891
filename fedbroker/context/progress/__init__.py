"""Tells people what a context is doing, while it does it. Imports this package's display, the session's events.

Nothing here raises into the computation.
"""

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
from fedbroker.session.events import Listener
from fedbroker.session.report import Event
from fedbroker.session.session import Session

__all__ = ["Progress", "Watch"]


class Progress:
    """The progress of one context's invocations.

    Args:
        cohort: its name.
        wanted: False for none; True for a live display, whatever standard error is; None for a live display where it is
            a terminal, and plain lines elsewhere.
    """

    def __init__(self, cohort: str, wanted: bool | None) -> None:
        self._cohort = cohort
        self._wanted = wanted

    def watch(self) -> Watch:
        """Of one invocation."""
        return Watch(self._cohort, self._display)

    @property
    def listener(self) -> Listener | None:
        """What hears of the context's events."""
        return None if self._wanted is False else self._hear

    def _hear(self, event: Event) -> None:
        display = self._display()
        if display is not None:
            display.hear(self._cohort, event)

    def _display(self) -> Display | None:
        if self._wanted is False or sys.stderr is None:
            return None
        if self._wanted:
            return display_of(live=True, force=True)
        return display_of(live=_is_terminal(), force=False)


class Watch:
    """The progress of one invocation; of one without client stages nothing is shown."""

    def __init__(self, cohort: str, display: Callable[[], Display | None]) -> None:
        self._cohort = cohort
        self._find = display
        self._display: Display | None = None
        self._began = time.monotonic()
        self._invocation: Invocation | None = None
        self._session: Session | None = None

    def planned(self, name: str, stages: int) -> None:
        """It has so many client stages."""
        self._display = self._find() if stages else None
        if self._display is not None:
            self._invocation = Invocation(name, self._cohort, stages, self._began)
            self._display.begin(self._invocation)

    def waits(self) -> None:
        """For silos."""
        if self._display is not None and self._invocation is not None:
            self._display.change(partial(setattr, self._invocation, "phase", "waiting"))

    def runs(self, session: Session) -> None:
        """In a session, the first one or, on another attempt, a further one."""
        self._session = session
        if self._display is not None and self._invocation is not None:
            members = [member.name for member in session.members]
            self._display.change(partial(self._invocation.attempt, session.id, members))

    async def ended(self, error: BaseException | None = None) -> None:
        """Well, or with an error."""
        if self._display is None or self._invocation is None:
            return
        one, word = self._invocation, _word(error)
        report = None if self._session is None else self._session.recorder.report
        await self._display.end(one, lambda now: f"{one.name}: {one.summary(report, word, now)}")


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    except ValueError:  # it was closed
        return False


def _word(error: BaseException | None) -> str:
    """The error says more by itself."""
    if error is None:
        return ""
    if isinstance(error, FedbrokerError):
        return str(error.code)
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
