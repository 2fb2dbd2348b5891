"""The matrix as it came out, for the terminal and for docs/faults.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cells import FAULTS, MOMENTS, Cell

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


@dataclass
class Outcomes:
    """Seconds of each cell that passed, None for one that did not."""

    seconds: dict[Cell, float | None] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A table in Markdown: a row for each fault and policy, a column for each moment."""
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
        """The page."""
        faults = "\n".join(f"- **{name}**: {words}." for name, words in FAULTS.items())
        moments = "\n".join(f"- **{name}**: {words}." for name, words in MOMENTS.items())
        count = len(self.seconds)
        return HEAD.format(count=count) + "\n".join(self.lines()) + TAIL.format(faults=faults, moments=moments)


def expected(cell: Cell) -> str:
    """What a cell asserts, in a word or two."""
    if cell.errors:
        return "error by name"
    return {
        (111.0, 111.0): "all",
        (101.0, 101.0): "without it",
        (111.0, 101.0): "without it from then on",
        (1101.0, 1101.0): "late joiner in its place",
    }[cell.results[0]]


HEAD = """# Faults

What becomes of an invocation when something fails in its midst. Three silos, a real RabbitMQ node, the real C++
runtime; two client stages with a model of 8 MB; one of the silos, or what it needs, is meddled with. Each of the
{count} cells asserts the result or the error, what the session's report says, that nothing of the session is left at
the broker, and that the next invocation has all three silos. `make faults` runs them all and writes this page;
`make test` runs a cut.

The seconds are those of the whole invocation, among them the time for which a stage waits for a silo that is gone: 4 s,
or 6 s before a late joiner may take its place.

"""
TAIL = """

`all`: all three silos are in the result. `without it`: the others' sum. `error by name`: an error that names the silo.

## Faults

{faults}

## Moments

{moments}
"""
