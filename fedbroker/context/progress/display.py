"""Shows progress from its own thread, so that a stopped terminal or an unread pipe does not block the computation."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from fedbroker.context.progress.state import Invocation, names_text, time_text
from fedbroker.session.events import Event
from fedbroker.text import bytes_text, count_text, printable

__all__ = ["Display", "LineRenderer", "display_of"]

PATIENCE: Final = 0.5
"""Seconds to wait for the last line to be written: a stopped terminal must not delay the result for long."""

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


UNHURRIED: Final = 0.3
"""Seconds before a live display is shown: a shorter invocation would only flicker."""
LONG_WAIT: Final = 5.0
"""Seconds of waiting for silos after which a plain line says so."""
BAR: Final = 20
"""Width of a progress bar in characters."""


class Renderer(Protocol):
    """The interface of a renderer. Called in one thread; may raise any error of its stream."""

    pause: float
    """Seconds between two calls of :meth:`paint` while an invocation runs."""

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Show the present state of the invocations; if none are given, remove the display."""
        ...

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Show that a client stage has finished."""
        ...

    def say(self, line: str) -> None:
        """Write a line that stays."""
        ...


class LineRenderer:
    """Plain lines: one for each stage but the last, one for the invocation, and one for a long wait for silos."""

    pause = 1.0

    def __init__(self) -> None:
        self._told: set[int] = set()

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Write a line for each invocation that has waited long for silos, once."""
        for one in invocations:
            if one.phase == "waiting" and one.wanted and now - one.began > LONG_WAIT and id(one) not in self._told:
                self._told.add(id(one))
                self.say(f"{one.name}: {one.waiting_text()}")
        self._told &= {id(one) for one in invocations}

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Write a line, except for the last stage, which the invocation's own line covers."""
        if invocation.stage < invocation.stages:
            self.say(f"{invocation.name}: {invocation.stage_text(now)}")

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

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Show the invocations, once one of them has run for a moment."""
        from rich.live import Live

        if not invocations:
            live, self._live = self._live, None
            if live is not None:
                live.stop()
            return
        if self._live is None:
            if all(now - one.began < UNHURRIED for one in invocations):
                return
            # Standard output is the program's own. Other output to standard error appears above the display.
            self._live = Live(console=self._made(), auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
            self._made().show_cursor(True)  # so that the cursor is not left hidden if we are killed
        self._live.update(_table(invocations, now), refresh=True)

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Show nothing: the display has shown the stage."""

    def say(self, line: str) -> None:
        """Write a line above the live display."""
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


def display_of(*, live: bool, force: bool) -> Display:
    """Return the display of that kind, which all contexts of a process share, as they share standard error."""
    return _display(os.getpid(), live, force)


@functools.cache
def _display(process: int, live: bool, force: bool) -> Display:
    """Return one display for each process id, because a forked child does not have its parent's threads."""
    return Display(LiveRenderer(force=force) if live else LineRenderer())


class Display:
    """The display of running invocations. Its methods may be called from any thread and do not block."""

    def __init__(self, painter: Renderer) -> None:
        self._renderer = painter
        self._process = os.getpid()
        self._changes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._shown: list[Invocation] = []
        self._silent = False
        self._late = False
        threading.Thread(target=self._run, name="fedbroker progress", daemon=True).start()
        atexit.register(self._leave)

    def begin(self, invocation: Invocation) -> None:
        """Show another invocation. The display owns it from now on; it is changed by :meth:`change` only."""
        self._changes.put(lambda: self._shown.append(invocation))

    def change(self, change: Callable[[], None]) -> None:
        """Change an invocation that is shown."""
        self._changes.put(change)

    def on_event(self, cohort: str, event: Event) -> None:
        """Update the invocations from an event of a cohort."""
        self._changes.put(lambda: self._heard(cohort, event))

    async def end(self, invocation: Invocation, words: Callable[[float], str]) -> None:
        """Remove an invocation, and write its last line; return when it is written, or after half a second."""
        loop = asyncio.get_running_loop()
        written = loop.create_future()

        def over() -> None:
            try:
                self._ended(invocation, words)
            finally:
                self._late = False
                with contextlib.suppress(RuntimeError):  # the loop was closed before
                    loop.call_soon_threadsafe(lambda: None if written.done() else written.set_result(None))

        self._changes.put(over)
        if self._late:
            return  # standard error is not read: waiting once was enough
        try:
            async with asyncio.timeout(PATIENCE):
                await written
        except TimeoutError:
            self._late = True

    def _heard(self, cohort: str, event: Event) -> None:
        now = time.monotonic()
        for one in self._shown:
            if event.session and event.session == one.session:
                one.on_event(event, now)
                if event.name == "stage_finished" and not self._silent:
                    self._renderer.stage_over(one, now)
            elif event.name == "waiting_for_silos" and one.phase == "waiting" and one.cohort == cohort:
                one.present = tuple(event.details.get("present", ()))
                one.wanted = event.details.get("wanted", 0)

    def _ended(self, invocation: Invocation, words: Callable[[float], str]) -> None:
        self._shown = [one for one in self._shown if one is not invocation]
        now = time.monotonic()
        if not self._silent:
            if not self._shown:
                self._renderer.paint((), now)
            self._renderer.say(words(now))

    def _run(self) -> None:
        painted = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                self._do(self._changes.get(timeout=self._renderer.pause if self._shown else None))
            now = time.monotonic()
            if self._shown and not self._silent and now - painted >= self._renderer.pause:
                painted = now
                self._do(lambda: self._renderer.paint(self._shown, time.monotonic()))

    def _do(self, change: Callable[[], None]) -> None:
        """Run a change; after an error nothing more is shown, because the display must not fail a computation."""
        try:
            change()
        except Exception:
            self._silent = True

    def _leave(self) -> None:
        """Restore the terminal; a forked child has no thread for it, and shows nothing."""
        if os.getpid() != self._process:
            return
        cleared = threading.Event()

        def clear() -> None:
            self._shown = []
            self._renderer.paint((), time.monotonic())
            cleared.set()

        self._changes.put(clear)
        cleared.wait(PATIENCE)
