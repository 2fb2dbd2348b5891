"""The results of a benchmark: rows of figures, each with its bar, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Judged:
    """A figure and the bar that it is held against.

    Attributes:
        value: the figure; a ratio if two things were measured side by side.
        sense: whether it must not be above the bar, or not below.
        bar: the bound.
        unit: of both: ``x`` for a ratio, ``ms``, ``s``; empty for a count.
    """

    value: float
    sense: Literal["≤", "≥"]
    bar: float
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Return whether the figure meets the bar."""
        return self.value <= self.bar if self.sense == "≤" else self.value >= self.bar


@dataclass(frozen=True, slots=True)
class Row:
    """One case.

    Attributes:
        case: its name.
        figures: by column; None if it has none.
        judged: None for a row that is only there for comparison.
    """

    case: str
    figures: Mapping[str, float | None]
    judged: Judged | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one benchmark.

    Attributes:
        name: the benchmark's.
        title: the quantity that it measures, in a line.
        columns: the headings of the figures, in order.
        rows: the cases.
        notes: explanations of the table, a line each.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default=())

    @property
    def met(self) -> bool:
        """Return whether every bar is met."""
        return all(row.judged is None or row.judged.met for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return all figures at full precision, for JSON."""
        rows = [
            {
                "case": row.case,
                **row.figures,
                "judged": None if row.judged is None else {**dataclasses.asdict(row.judged), "met": row.judged.met},
            }
            for row in self.rows
        ]
        return {"name": self.name, "title": self.title, "met": self.met, "rows": rows, "notes": list(self.notes)}

    def table(self) -> str:
        """Return a table in Markdown with aligned columns, for people."""
        cells = [("", *self.columns, "measured", "bar", "met")]
        cells += [
            (row.case, *(shown(row.figures.get(one)) for one in self.columns), *_judged(row)) for row in self.rows
        ]
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines = [_line(row, widths) for row in cells]
        ruler = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
        return "\n".join([lines[0], f"| {' | '.join(ruler)} |", *lines[1:]])


def shown(figure: float | None) -> str:
    """Format a figure with three significant digits, and no more decimals than they take; a count as it is."""
    if figure is None:
        return ""
    if isinstance(figure, int):
        return f"{figure:,}"
    size = abs(figure)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 or size == 0 else 3
    return f"{figure:,.{decimals}f}"


def _judged(row: Row) -> tuple[str, str, str]:
    one = row.judged
    if one is None:
        return "", "", ""
    space = " " if one.unit not in ("", "x") else ""
    return (
        f"{shown(one.value)}{space}{one.unit}",
        f"{one.sense} {one.bar:g}{space}{one.unit}",
        "yes" if one.met else "no",
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(row, widths, strict=True)
    return f"| {' | '.join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])} |"
