"""Shows progress from its own thread, so that a stopped terminal or an unread pipe does not block the computation."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from fedbroker.context.progress.renderers import LineRenderer, LiveRenderer, Renderer
from fedbroker.context.progress.state import Invocation
from fedbroker.session.report import Event

__all__ = ["Display", "display_of"]

PATIENCE: Final = 0.5
"""Seconds to wait for the last line to be written: a stopped terminal must not delay the result for long."""


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

    def hear(self, cohort: str, event: Event) -> None:
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
                one.hear(event, now)
                if event.name == "stage finished" and not self._silent:
                    self._renderer.stage_over(one, now)
            elif event.name == "waiting for silos" and one.phase == "waiting" and one.cohort == cohort:
                one.present = tuple(event.details.get("present", ()))
                one.wanted = int(event.details.get("wanted", 0))

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
        gone = threading.Event()

        def clear() -> None:
            self._shown = []
            self._renderer.paint((), time.monotonic())
            gone.set()

        self._changes.put(clear)
        gone.wait(PATIENCE)
