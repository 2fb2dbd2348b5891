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

LAST_LINE_SECONDS: Final = 0.5
"""Seconds to wait for the last line to be written: a stopped terminal must not delay the result for long."""

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


SHOW_AFTER_SECONDS: Final = 0.3
"""Seconds before a live display is shown: a shorter invocation would only flicker."""
LONG_WAIT_SECONDS: Final = 5.0
"""Seconds of waiting for silos after which a plain line says so."""
BAR_WIDTH: Final = 20
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
        self._reported: set[int] = set()

    def paint(self, invocations: Sequence[Invocation], now: float) -> None:
        """Write a line for each invocation that has waited long for silos, once."""
        for invocation in invocations:
            waiting = invocation.phase == "waiting" and invocation.needed
            if waiting and now - invocation.began > LONG_WAIT_SECONDS and id(invocation) not in self._reported:
                self._reported.add(id(invocation))
                self.say(f"{invocation.name}: {invocation.waiting_text()}")
        self._reported &= {id(invocation) for invocation in invocations}

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
            if all(now - invocation.began < SHOW_AFTER_SECONDS for invocation in invocations):
                return
            # Standard output is the program's own. Other output to standard error appears above the display.
            self._live = Live(console=self._get_console(), auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
            self._get_console().show_cursor(True)  # so that the cursor is not left hidden if we are killed
        self._live.update(_table(invocations, now), refresh=True)

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Show nothing: the display has shown the stage."""

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


def _table(invocations: Sequence[Invocation], now: float) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    shown = Table.grid(padding=(0, 1))
    for invocation in invocations:
        bar: RenderableType = ""
        text = "connecting"
        if invocation.phase == "waiting" and invocation.needed:
            bar = ProgressBar(total=invocation.needed, completed=len(invocation.present), width=BAR_WIDTH)
            text = invocation.waiting_text()
        elif invocation.phase == "clients":
            bar = ProgressBar(total=max(1, len(invocation.asked)), completed=len(invocation.answered), width=BAR_WIDTH)
            text = _stage_text(invocation)
        elif invocation.phase == "server":
            text = f"stage {invocation.stage} of {invocation.stages} is over" if invocation.stage else "starting"
        shown.add_row(invocation.name, bar, text, time_text(now - invocation.began))
    return shown


def _stage_text(invocation: Invocation) -> str:
    answered = f"{len(invocation.answered)}/{count_text(len(invocation.asked), 'silo')}"
    parts = [f"stage {invocation.stage} of {invocation.stages}", answered]
    if invocation.bytes_in:
        parts.append(f"{bytes_text(invocation.bytes_in)} in")
    if invocation.awaited:
        parts.append(f"waiting for {names_text(invocation.awaited)}")
    if invocation.dropped:
        parts.append(f"dropped {names_text(invocation.dropped)}")
    return ", ".join(parts)


def display_of(*, live: bool, force: bool) -> Display:
    """Return the display of that kind, which all contexts of a process share, as they share standard error."""
    return _display(os.getpid(), live, force)


@functools.cache
def _display(process: int, live: bool, force: bool) -> Display:
    """Return one display for each process id, because a forked child does not have its parent's threads."""
    return Display(LiveRenderer(force=force) if live else LineRenderer())


class Display:
    """The display of running invocations. Its methods may be called from any thread and do not block."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
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
        self._changes.put(lambda: self._apply_event(cohort, event))

    async def end(self, invocation: Invocation, last_line: Callable[[float], str]) -> None:
        """Remove an invocation, and write its last line; return when it is written, or after half a second."""
        loop = asyncio.get_running_loop()
        written = loop.create_future()

        def finish() -> None:
            try:
                self._ended(invocation, last_line)
            finally:
                self._late = False
                with contextlib.suppress(RuntimeError):  # the loop was closed before
                    loop.call_soon_threadsafe(lambda: None if written.done() else written.set_result(None))

        self._changes.put(finish)
        if self._late:
            return  # standard error is not read: waiting once was enough
        try:
            async with asyncio.timeout(LAST_LINE_SECONDS):
                await written
        except TimeoutError:
            self._late = True

    def _apply_event(self, cohort: str, event: Event) -> None:
        now = time.monotonic()
        for invocation in self._shown:
            if event.session and event.session == invocation.session:
                invocation.on_event(event, now)
                if event.name == "stage_finished" and not self._silent:
                    self._renderer.stage_over(invocation, now)
            elif event.name == "waiting_for_silos" and invocation.phase == "waiting" and invocation.cohort == cohort:
                invocation.present = tuple(event.details.get("present", ()))
                invocation.needed = event.details.get("wanted", 0)

    def _ended(self, invocation: Invocation, last_line: Callable[[float], str]) -> None:
        self._shown = [other for other in self._shown if other is not invocation]
        now = time.monotonic()
        if not self._silent:
            if not self._shown:
                self._renderer.paint((), now)
            self._renderer.say(last_line(now))

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
        cleared.wait(LAST_LINE_SECONDS)
