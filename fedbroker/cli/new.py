"""``fedbroker new``: a directory with a program, its notebook and a silo's settings, which run at once."""

from __future__ import annotations

import json as json_lib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

from fedbroker.cli.common import Json, print_json
from fedbroker.errors import UsageError

__all__ = ["new"]

_TEMPLATES: Final = ("README.md", "program.py", "silo.toml")
_CELL: Final = re.compile(r"^# %%\n", re.MULTILINE)

_ROWS: Final = 50
_AIRPORTS: Final = {"ewr": 17, "jfk": 11, "lga": 7}
"""The airports of the example, each with the step between its delays."""


def new(directory: Path, /, *, json: Json = False) -> None:
    """Write a program, its notebook, a silo's settings and data into a new directory.

    Parameters
    ----------
    directory
        The directory; it may exist if it is empty.
    json
        Print the names of the files as JSON.
    """
    try:
        if directory.exists() and next(directory.iterdir(), None) is not None:
            raise UsageError(f"{directory} is not empty", hint="name a new directory")
    except NotADirectoryError:
        raise UsageError(f"{directory} is a file", hint="name a new directory") from None
    written = dict(_contents())
    for name, text in written.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    if json:
        print_json({"directory": str(directory), "files": list(written)})
        return
    for name in written:
        print(directory / name)
    print(f"\nrun it: cd {directory} && python program.py")


def _contents() -> Iterator[tuple[str, str]]:
    """Yield the files by name."""
    for name in _TEMPLATES:
        text = files("fedbroker.cli").joinpath("project", f"{name}.txt").read_text(encoding="utf-8")
        yield name, text
        if name == "program.py":
            yield "notebook.ipynb", notebook(text)
    for airport, step in _AIRPORTS.items():
        # Some flights leave early: their delays are negative.
        delays = [number * step % 60 - 10 for number in range(_ROWS)]
        yield f"data/{airport}.csv", "minutes\n" + "".join(f"{minutes}\n" for minutes in delays)


def notebook(program: str) -> str:
    """Return a program, whose cells start with ``# %%``, as a notebook (nbformat 4.5)."""
    sources = [cell.strip() for cell in _CELL.split(program) if cell.strip()]
    cells: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": source.splitlines(keepends=True),
        }
        for number, source in enumerate(sources, 1)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json_lib.dumps(document, indent=1) + "\n"
