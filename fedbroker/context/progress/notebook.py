"""Shows progress in a notebook: one display in each cell, updated in place, and empty when the cell is over.

IPython is used where it is running already; nothing imports it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

from fedbroker.context.progress.page import page_of
from fedbroker.context.progress.state import Cell, Invocation, RunState

__all__ = ["NotebookRenderer", "notebook_shell"]

CLEARED_SECONDS: Final = 0.5
"""Seconds for which the end of a cell waits until its display is empty."""

SHOW_AFTER_SECONDS: Final = 0.3
"""Seconds of a cell's first invocation before it is shown: a shorter one would only flicker."""


@dataclass(slots=True)
class _Output:
    """The display of one cell."""

    began: float
    cell: Cell
    shown: bool = False
    over: bool = False
    last: Invocation | None = None


def notebook_shell() -> Any | None:  # noqa: ANN401  IPython is no dependency
    """Return IPython's shell if this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _of(output: _Output, invocations: Sequence[Invocation]) -> list[Invocation]:
    return [one for one in invocations if one.cell is not None and one.cell.id == output.cell.id]


class NotebookRenderer:
    """Updates a display in each cell that runs computations.

    Args:
        shell: IPython's shell.
    """

    pause = 0.25

    def __init__(self, shell: Any) -> None:  # noqa: ANN401
        self._publisher = shell.display_pub
        self._outputs: dict[str, _Output] = {}
        self._change: Callable[[Callable[[], None]], None] | None = None
        self._running: Callable[[], Sequence[Invocation]] = tuple
        shell.events.register("post_run_cell", self._on_cell_end)

    def attach(self, change: Callable[[Callable[[], None]], None], running: Callable[[], Sequence[Invocation]]) -> None:
        """Use ``change`` to run functions in the display's thread, and there ``running`` for what runs."""
        self._change, self._running = change, running

    def cell(self, context: Context) -> Cell:
        """Return the cell in which these context variables are set."""
        return Cell(str(context.run(self._request)), context)

    def paint(self, invocations: Sequence[Invocation], runs: Sequence[RunState], now: float) -> None:
        """Update the displays of the cells of these invocations, and of those whose last one has ended."""
        for invocation in invocations:
            cell = invocation.cell
            if cell is not None and cell.id not in self._outputs:
                self._outputs[cell.id] = _Output(invocation.began, cell)
        for output in list(self._outputs.values()):
            mine = _of(output, invocations)
            if not mine and output.over:
                self._clear(output)
            elif now - output.began >= SHOW_AFTER_SECONDS:
                last = [] if output.last is None else [output.last]
                self._publish(output, mine or last, runs, now)

    def stage_over(self, invocation: Invocation, now: float) -> None:
        """Show nothing more: the display shows each silo."""

    def invocation_over(self, invocation: Invocation, line: str, failed: bool) -> None:
        """Keep the invocation in the display until the next one of its cell; its error is shown by the notebook."""
        if invocation.cell is not None and invocation.cell.id in self._outputs:
            self._outputs[invocation.cell.id].last = invocation

    def round_over(self, line: str) -> None:
        """Show nothing more: the display shows the round."""

    def run_over(self, line: str) -> None:
        """Show nothing more: what a program wants to leave, it prints."""

    def say(self, line: str) -> None:
        """Show nothing more."""

    def _request(self) -> str:
        return str(self._publisher.parent_header.get("msg_id", ""))

    def _on_cell_end(self, *_: object) -> None:
        """Empty the display of the cell that has ended, before the notebook hears of its end."""
        cell, cleared = self._request(), threading.Event()

        def clear() -> None:
            try:
                output = self._outputs.get(cell)
                if output is not None:
                    output.over = True
                    if not _of(output, self._running()):
                        self._clear(output)
            finally:
                cleared.set()

        if self._change is not None:
            self._change(clear)
            cleared.wait(CLEARED_SECONDS)

    def _clear(self, output: _Output) -> None:
        self._outputs.pop(output.cell.id, None)
        if output.shown:
            self._send(output, {"text/plain": "", "text/html": ""})

    def _publish(
        self, output: _Output, invocations: Sequence[Invocation], runs: Sequence[RunState], now: float
    ) -> None:
        mine = {one.run for one in invocations}
        page, line = page_of(invocations, [run for run in runs if run.id in mine], now)
        self._send(output, {"text/plain": line, "text/html": page})
        output.shown = True

    def _send(self, output: _Output, data: dict[str, str]) -> None:
        output.cell.context.run(
            self._publisher.publish,
            data,
            {},
            transient={"display_id": f"fedbroker-{output.cell.id}"},
            update=output.shown,
        )
