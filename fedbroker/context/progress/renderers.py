"""Draws progress on standard error: plain lines, or a line on a terminal that is kept up to date."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from fedbroker.context.progress.state import Invocation, RunState, time_text
from fedbroker.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["LineRenderer", "LiveRenderer", "Renderer"]

SHOW_AFTER_SECONDS: Final = 0.3
"""Seconds before a live display is shown: a shorter invocation would only flicker."""
LONG_WAIT_SECONDS: Final = 5.0
"""Seconds of waiting for silos after which a plain line says so."""
BAR_WIDTH: Final = 20
"""Width of a progress bar in characters."""
MAX_NAMES: Final = 1000
"""Number of computations whose lines are remembered, so that a line appears once."""


class Renderer(Protocol):
    """The interface of a renderer. Called in one thread; may raise any error of its stream."""

    pause: float
    """Seconds between two calls of :meth:`paint` while an invocation runs."""

    def paint(self, invocations: Sequence[Invocation], runs: Sequence[RunState], now: float) -> None:
        """Show the present state of the invocations; if none are given, remove the display."""
        ...

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Show that a client stage has finished."""
        ...

    def invocation_over(self, invocation: Invocation, line: str, failed: bool) -> None:
        """Show that an invocation has ended, with a line on it."""
        ...

    def round_over(self, line: str) -> None:
        """Show that a round of a run has finished, with a line on it."""
        ...

    def run_over(self, line: str) -> None:
        """Show that a run has ended, with a line on it."""
        ...


class LineRenderer:
    """Plain lines: in a run one for each round, elsewhere one for each stage but the last and one for the invocation.

    A long wait for silos and a failure have lines everywhere.
    """

    pause = 1.0

    def __init__(self) -> None:
        self._reported: set[int] = set()

    def paint(self, invocations: Sequence[Invocation], runs: Sequence[RunState], now: float) -> None:
        """Write a line for each invocation that has waited long for silos, once."""
        for invocation in invocations:
            waiting = invocation.phase == "waiting" and invocation.needed
            if waiting and now - invocation.began > LONG_WAIT_SECONDS and id(invocation) not in self._reported:
                self._reported.add(id(invocation))
                self.say(f"{invocation.name}: {invocation.waiting_text()}")
        self._reported &= {id(invocation) for invocation in invocations}

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Write a line, except for the last stage, which the invocation's own line covers."""
        if invocation.stage < invocation.stages and not invocation.run:
            self.say(f"{invocation.name}: {invocation.stage_text(now)}")

    def invocation_over(self, invocation: Invocation, line: str, failed: bool) -> None:
        """Write a line, except in a run, whose rounds have lines."""
        if failed or not invocation.run:
            self.say(line)

    def round_over(self, line: str) -> None:
        """Write a line."""
        self.say(line)

    def run_over(self, line: str) -> None:
        """Write a line."""
        self.say(line)

    def say(self, line: str) -> None:
        """Write a line to the current ``sys.stderr``, which may have been replaced since."""
        sys.stderr.write(f"fedbroker: {printable(line)}\n")
        sys.stderr.flush()


class LiveRenderer:
    """A line for each running invocation, kept up to date at the bottom of the terminal.

    Args:
        force: write terminal codes even if standard error is no terminal.
    """

    pause = 0.125

    def __init__(self, *, force: bool = False) -> None:
        self._force = force
        self._console: Console | None = None
        self._live: Live | None = None
        self._said: set[str] = set()

    def paint(self, invocations: Sequence[Invocation], runs: Sequence[RunState], now: float) -> None:
        """Show the invocations, once one of them has run for a moment."""
        from rich.live import Live

        if not invocations:
            live, self._live = self._live, None
            if live is not None:
                live.stop()
            return
        if self._live is None:
            if all(now - invocation.began < SHOW_AFTER_SECONDS for invocation in invocations):
                return
            # Standard output is the program's own. Other output to standard error appears above the display.
            self._live = Live(console=self._get_console(), auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
            self._get_console().show_cursor(True)  # so that the cursor is not left hidden if we are killed
        self._live.update(_table(invocations, runs, now), refresh=True)

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Show nothing: the display has shown the stage."""

    def invocation_over(self, invocation: Invocation, line: str, failed: bool) -> None:
        """Write a line after a failure and after the first call of a computation: a loop leaves one line, not many."""
        if not failed:
            if invocation.run or invocation.name in self._said or len(self._said) >= MAX_NAMES:
                return
            self._said.add(invocation.name)
        self.say(line)

    def round_over(self, line: str) -> None:
        """Show nothing: the display has shown the round."""

    def run_over(self, line: str) -> None:
        """Write a line."""
        self.say(line)

    def say(self, line: str) -> None:
        """Write a line above the live display."""
        from rich.text import Text

        self._get_console().print(Text(printable(line)), soft_wrap=True)

    def _get_console(self) -> Console:
        from rich.console import Console

        if self._console is None:
            forced = True if self._force else None
            self._console = Console(stderr=True, force_terminal=forced, highlight=False, markup=False, emoji=False)
        return self._console


def _table(invocations: Sequence[Invocation], runs: Sequence[RunState], now: float) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    titles = {run.id: run.title() for run in runs}
    shown = Table.grid(padding=(0, 1))
    for invocation in invocations:
        bar: RenderableType = ""
        if invocation.phase == "waiting" and invocation.needed:
            bar = ProgressBar(total=invocation.needed, completed=len(invocation.present), width=BAR_WIDTH)
        elif invocation.phase == "clients":
            bar = ProgressBar(total=max(1, len(invocation.asked)), completed=len(invocation.answered), width=BAR_WIDTH)
        name = f"{titles[invocation.run]}, {invocation.name}" if invocation.run in titles else invocation.name
        shown.add_row(Text(printable(name)), bar, invocation.stage_line(), time_text(now - invocation.began))
    return shown
