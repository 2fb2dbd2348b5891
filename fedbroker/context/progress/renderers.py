"""How progress looks: live on a terminal, or a line now and then. Imports this package's state only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from fedbroker.context.progress.state import Invocation, names_text, time_text
from fedbroker.printable import printable
from fedbroker.quantities import bytes_text, count_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["LineRenderer", "LiveRenderer", "Renderer"]

UNHURRIED: Final = 0.3
"""Seconds before a live display is shown at all: what is over by then would only flicker."""
LONG_WAIT: Final = 5.0
"""Seconds of waiting for silos after which a line says so."""
BAR: Final = 20


class Renderer(Protocol):
    """Shows invocations under way. Called in one thread; may raise whatever its stream raises."""

    pause: float
    """Seconds between two calls of :meth:`paint` while something is under way."""

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Show how it is now; none: show nothing more."""
        ...

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """A client stage is over."""
        ...

    def say(self, line: str) -> None:
        """Write a line that stays."""
        ...


class LineRenderer:
    """Plain lines: one for each stage, the last one for the invocation, and one when silos are waited for long."""

    pause = 1.0

    def __init__(self) -> None:
        self._told: set[int] = set()

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Tell who has waited for long, once."""
        for one in invocations:
            if one.phase == "waiting" and one.wanted and now - one.began > LONG_WAIT and id(one) not in self._told:
                self._told.add(id(one))
                self.say(f"{one.name}: {one.waiting_text()}")
        self._told &= {id(one) for one in invocations}

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """The last one is told with the invocation."""
        if invocation.stage < invocation.stages:
            self.say(f"{invocation.name}: {invocation.stage_text(now)}")

    def say(self, line: str) -> None:
        """On standard error, as it is at that moment."""
        sys.stderr.write(f"fedbroker: {printable(line)}\n")
        sys.stderr.flush()


class LiveRenderer:
    """A line for each invocation under way, kept up to date at the foot of the terminal.

    Args:
        force: write a terminal's codes even where standard error is none.
    """

    pause = 0.125

    def __init__(self, *, force: bool = False) -> None:
        self._force = force
        self._console: Console | None = None
        self._live: Live | None = None

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Show them, once one of them has taken a while."""
        from rich.live import Live

        if not invocations:
            live, self._live = self._live, None
            if live is not None:
                live.stop()
            return
        if self._live is None:
            if all(now - one.began < UNHURRIED for one in invocations):
                return
            # Standard output is the program's own; what goes to standard error meanwhile is written above.
            self._live = Live(console=self._made(), auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
            self._made().show_cursor(True)  # so that nothing is to be put right if we are killed
        self._live.update(_table(invocations, now), refresh=True)

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Seen anyhow."""

    def say(self, line: str) -> None:
        """Above what is live."""
        from rich.text import Text

        self._made().print(Text(printable(line)), soft_wrap=True)

    def _made(self) -> Console:
        from rich.console import Console

        if self._console is None:
            forced = True if self._force else None
            self._console = Console(stderr=True, force_terminal=forced, highlight=False, markup=False, emoji=False)
        return self._console


def _table(invocations: Sequence[Invocation], now: float) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    shown = Table.grid(padding=(0, 1))
    for one in invocations:
        bar: RenderableType = ""
        words = "connecting"
        if one.phase == "waiting" and one.wanted:
            bar = ProgressBar(total=one.wanted, completed=len(one.present), width=BAR)
            words = one.waiting_text()
        elif one.phase == "clients":
            bar = ProgressBar(total=max(1, len(one.asked)), completed=len(one.answered), width=BAR)
            words = _stage_words(one)
        elif one.phase == "server":
            words = f"stage {one.stage} of {one.stages} is over" if one.stage else "starting"
        shown.add_row(one.name, bar, words, time_text(now - one.began))
    return shown


def _stage_words(one: Invocation) -> str:
    words = [f"stage {one.stage} of {one.stages}", f"{len(one.answered)}/{count_text(len(one.asked), 'silo')}"]
    if one.bytes_in:
        words.append(f"{bytes_text(one.bytes_in)} in")
    if one.awaited:
        words.append(f"waiting for {names_text(one.awaited)}")
    if one.dropped:
        words.append(f"dropped {names_text(one.dropped)}")
    return ", ".join(words)
