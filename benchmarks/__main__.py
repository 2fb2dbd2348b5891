"""``python -m benchmarks``: run benchmarks, print a table of each, write the results to files."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TextIO

import cyclopts

from benchmarks import _machine, _page
from benchmarks._report import Report

NAMES = (
    "barrier",
    "work",
    "wan",
    "model",
    "memory",
    "native",
    "wide",
    "cohort",
    "board",
    "functions",
    "masks",
    "secure",
    "flower",
    "secagg",
)
QUICK = ("barrier", "work", "wan", "model", "native", "wide", "cohort", "masks")
"""All but the benchmarks that need packages of their own, or minutes."""
STANDARD_OUTPUT = Path("-")

app = cyclopts.App(name="benchmarks", help_format="plaintext", version_flags=[])


@app.default
def main(
    *names: str,
    quick: bool = False,
    check: bool = False,
    json_file: Annotated[Path | None, cyclopts.Parameter(name="--json")] = None,
    write_page: bool = False,
) -> None:
    """Run benchmarks, by turns with what they are judged by, and print a table of each.

    Args:
        names: of the benchmarks; all if none is given.
        quick: fewer and smaller cases, in under three minutes.
        check: exit with 1 if a bar is not met.
        json_file: where to write every figure as JSON; --json=- is standard output, and tables go to standard error.
        write_page: put the tables into docs/performance.md.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's notes about the processor
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.exit(f"error: no benchmark is called {unknown[0]!r}: choose from {', '.join(NAMES)}")
    tables = sys.stderr if json_file == STANDARD_OUTPUT else sys.stdout
    machine = _machine.described()
    reports: list[Report] = []
    for name in names or (QUICK if quick else NAMES):
        reports.append(measured(name, quick, tables))
        if (
            json_file is not None and json_file != STANDARD_OUTPUT
        ):  # after each benchmark: an interrupted run keeps its results
            write_json(json_file, reports, machine)
        if write_page:
            _page.write(reports[-1:], machine)
    if json_file == STANDARD_OUTPUT:
        print(as_json(reports, machine))
    sys.exit(exit_code(reports, check=check))


def exit_code(reports: Sequence[Report], *, check: bool) -> int:
    """Return 1 if a bar is not met and ``check`` is set, else 0."""
    return int(check and not all(report.met for report in reports))


def measured(name: str, quick: bool, tables: TextIO) -> Report:
    """Run a benchmark and print its table."""
    start = time.monotonic()
    report: Report = importlib.import_module(f"benchmarks.{name}").run(quick)
    words = [f"{name}: {report.title} ({time.monotonic() - start:.0f} s)", "", report.table(), "", *report.notes, ""]
    print("\n".join(words), file=tables, flush=True)
    return report


def write_json(path: Path, reports: Sequence[Report], machine: str) -> None:
    """Write all figures so far to a file."""
    path.write_text(as_json(reports, machine) + "\n", encoding="utf-8")


def as_json(reports: Sequence[Report], machine: str) -> str:
    """Return all figures as JSON, with the machine that they were measured on."""
    return json.dumps({"machine": machine, "benchmarks": [report.as_dict() for report in reports]}, indent=2)


if __name__ == "__main__":
    app()
