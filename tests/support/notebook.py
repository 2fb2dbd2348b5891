"""A notebook that a real kernel runs, cell by cell."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

__all__ = ["Notebook", "open_notebook", "size_of"]

CELL_SECONDS = 240
"""Time limit of a cell, on a loaded machine: importing TensorFlow Federated alone takes ten seconds on an idle one."""


def size_of(outputs: object) -> int:
    """Return the number of characters that outputs take in the notebook's file."""
    return len(json.dumps(outputs))


class _Client(NotebookClient):
    """A client that keeps the displays that a later message replaces."""

    def __init__(self, nb: Any, **more: Any) -> None:
        super().__init__(nb, **more)
        self.displays: list[tuple[str, dict[str, str]]] = []

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            self.displays.append((msg["msg_type"], msg["content"]["data"]))
        return super().process_message(msg, cell, cell_index)


class Notebook:
    """A notebook with a running kernel."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    @property
    def pid(self) -> int:
        """The kernel's process."""
        return self._client.km.provisioner.pid

    @property
    def displays(self) -> list[tuple[str, dict[str, str]]]:
        """The displays of all cells so far: the kind of message, and the data by MIME type."""
        return self._client.displays

    @property
    def outputs(self) -> list[Any]:
        """The outputs that are in the notebook now."""
        return [output for cell in self._client.nb.cells for output in cell.outputs]

    def run(self, code: str) -> list[Any]:
        """Run another cell; return its outputs, errors too."""
        cells = self._client.nb.cells
        cells.append(nbformat.v4.new_code_cell(code))
        self._client.execute_cell(cells[-1], len(cells) - 1)
        return cells[-1].outputs

    def interrupt(self) -> None:
        """Interrupt the running cell, as a notebook's stop button does."""
        os.kill(self.pid, signal.SIGINT)


@contextmanager
def open_notebook(directory: Path, **environment: str) -> Iterator[Notebook]:
    """Run a kernel in that directory within the block, without the variables that quieten TensorFlow."""
    kept: Mapping[str, str] = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    client = _Client(
        nbformat.v4.new_notebook(),
        timeout=CELL_SECONDS,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(directory)}},
    )
    with client.setup_kernel(env={**kept, **environment}):
        yield Notebook(client)
