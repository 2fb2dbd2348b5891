"""Shows progress from its own thread, so that a stopped terminal or an unread pipe does not block the computation."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import functools
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from fedbroker.context.progress.notebook import NotebookRenderer, notebook_shell
from fedbroker.context.progress.renderers import LineRenderer, LiveRenderer, Renderer
from fedbroker.context.progress.state import Cell, Invocation, RunState
from fedbroker.session.events import Event

__all__ = ["Display", "Kind", "display_of"]

LAST_LINE_SECONDS: Final = 0.5
"""Seconds to wait for the last line to be written: a stopped terminal must not delay the result for long."""

Kind: TypeAlias = Literal["lines", "live", "forced", "notebook"]
"""Plain lines; a line on a terminal, also if standard error is none; a display in a notebook's cells."""


def display_of(kind: Kind) -> Display:
    """Return the display of that kind, which all contexts of a process share, as they share standard error."""
    return _display(os.getpid(), kind)


@functools.cache
def _display(process: int, kind: Kind) -> Display:
    """Return one display for each process id, because a forked child does not have its parent's threads."""
    if kind == "notebook":
        renderer = NotebookRenderer(notebook_shell())
        display = Display(renderer)
        renderer.attach(display.change, lambda: display.shown)
        return display
    return Display(LineRenderer() if kind == "lines" else LiveRenderer(force=kind == "forced"))


class Display:
    """The display of running invocations. Its methods may be called from any thread and do not block."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._process = os.getpid()
        self._changes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.shown: list[Invocation] = []  # only its own thread may use it
        self._runs: dict[str, RunState] = {}
        self._silent = False
        self._late = False
        threading.Thread(target=self._run, name="fedbroker progress", daemon=True).start()
        atexit.register(self._leave)

    def cell(self) -> Cell | None:
        """Return the notebook's cell that the caller's code runs in; None outside of a notebook."""
        renderer = self._renderer
        return renderer.cell(contextvars.copy_context()) if isinstance(renderer, NotebookRenderer) else None

    def begin(self, invocation: Invocation) -> None:
        """Show another invocation. The display owns it from now on; it is changed by :meth:`change` only."""
        self._changes.put(lambda: self.shown.append(invocation))

    def change(self, change: Callable[[], None]) -> None:
        """Change an invocation that is shown."""
        self._changes.put(change)

    def on_event(self, cohort: str, event: Event) -> None:
        """Update the invocations from an event of a cohort."""
        self._changes.put(lambda: self._apply_event(cohort, event))

    async def end(self, invocation: Invocation, last_line: Callable[[float], str], *, failed: bool) -> None:
        """Remove an invocation, and write its last line; return when it is written, or after half a second."""
        loop = asyncio.get_running_loop()
        written = loop.create_future()

        def finish() -> None:
            try:
                self._ended(invocation, last_line, failed)
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
        if event.name in ("run_started", "round_finished", "run_finished"):
            self._apply_run(event, now)
        for invocation in self.shown:
            if event.session and event.session == invocation.session:
                invocation.on_event(event, now)
                if event.name == "stage_finished" and not self._silent:
                    self._renderer.stage_over(invocation, now)
            elif event.name == "waiting_for_silos" and invocation.phase == "waiting" and invocation.cohort == cohort:
                invocation.present = tuple(event.details.get("present", ()))
                invocation.needed = event.details.get("wanted", 0)

    def _apply_run(self, event: Event, now: float) -> None:
        details = event.details
        run = self._runs.get(details.get("run", ""))
        if event.name == "run_started":
            run = RunState(details.get("run", ""), details.get("program", ""), details.get("rounds"), now)
            self._runs[run.id] = run
        elif run is not None and event.name == "round_finished":
            line = run.round_line(details.get("round", 0), details.get("metrics", {}), now)
            if not self._silent:
                self._renderer.round_over(line)
        elif run is not None:
            del self._runs[run.id]
            if not self._silent:
                self._renderer.run_over(run.last_line(details.get("outcome", "ok"), now))

    def _ended(self, invocation: Invocation, last_line: Callable[[float], str], failed: bool) -> None:
        self.shown = [other for other in self.shown if other is not invocation]
        invocation.over = True
        now = time.monotonic()
        if not self._silent:
            if not self.shown:
                self._renderer.paint((), self._running_runs(), now)
            self._renderer.invocation_over(invocation, last_line(now), failed)

    def _running_runs(self) -> list[RunState]:
        return list(self._runs.values())

    def _run(self) -> None:
        painted = 0.0
        while True:
            with contextlib.suppress(queue.Empty):
                self._do(self._changes.get(timeout=self._renderer.pause if self.shown else None))
            now = time.monotonic()
            if self.shown and not self._silent and now - painted >= self._renderer.pause:
                painted = now
                self._do(lambda: self._renderer.paint(self.shown, self._running_runs(), time.monotonic()))

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
            self.shown = []
            self._renderer.paint((), (), time.monotonic())
            cleared.set()

        self._changes.put(clear)
        cleared.wait(LAST_LINE_SECONDS)
