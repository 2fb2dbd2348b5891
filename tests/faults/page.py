"""The results of the fault matrix, for the terminal and for docs/faults.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cells import FAULTS, MOMENTS, Cell

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


@dataclass
class Outcomes:
    """Seconds of each cell that passed, and None for each that failed."""

    seconds: dict[Cell, float | None] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return a Markdown table: a row for each fault and policy, a column for each moment."""
        rows = ["| fault | policy | " + " | ".join(MOMENTS) + " |", "|---" * (2 + len(MOMENTS)) + "|"]
        for fault in FAULTS:
            for policy in ("fail", "drop", "replace"):
                found = {cell.moment: cell for cell in self.seconds if (cell.fault, cell.policy) == (fault, policy)}
                if found:
                    shown = [self._shown(found.get(moment)) for moment in MOMENTS]
                    rows.append(f"| {fault} | {policy} | " + " | ".join(shown) + " |")
        return rows

    def _shown(self, cell: Cell | None) -> str:
        if cell is None:
            return ""
        seconds = self.seconds[cell]
        if seconds is None:
            return "FAILED"
        return f"{expected(cell)}, {seconds:.1f} s"

    def page(self) -> str:
        """Return the page."""
        faults = "\n".join(f"- **{name}**: {words}." for name, words in FAULTS.items())
        moments = "\n".join(f"- **{name}**: {words}." for name, words in MOMENTS.items())
        count = len(self.seconds)
        return HEAD.format(count=count) + "\n".join(self.lines()) + TAIL.format(faults=faults, moments=moments)


def expected(cell: Cell) -> str:
    """Return the effect that a cell asserts, in a word or two."""
    if cell.errors:
        return "error"
    return {
        (111.0, 111.0): "all",
        (101.0, 101.0): "without",
        (111.0, 101.0): "without later",
        (1101.0, 1101.0): "replaced",
    }[cell.results[0]]


HEAD = """# Faults

This page shows the effect of a fault on an invocation. The set-up is three silos, a real RabbitMQ node and the real C++
runtime. The invocation has two client stages with a model of 8 MB. The fault hits one of the silos, or a process or
link that it needs. Each of the {count} cells asserts

- the result or the error;
- the session's report;
- that no queue or message of the session is left at the broker;
- that the next invocation has all three silos.

`make faults` runs all cells and writes this page; `make test` runs a part of them.

The seconds are those of the whole invocation. They include the time for which a stage waits for a missing silo: 4 s, or
6 s before a late joiner may replace it.

"""
TAIL = """

- `all`: all three silos are in the result.
- `without`: the others' sum. `without later`: the silo is missing from the second stage only.
- `replaced`: a late joiner has taken its place.
- `error`: an error that names the silo.

## Faults

{faults}

## Moments

{moments}
"""
