"""Put tables into docs/performance.md, each between two marks; the text around them stays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks._report import Report

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def write(reports: Sequence[Report], machine: str, page: Path = PAGE) -> None:
    """Replace the text between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    text = page.read_text(encoding="utf-8")
    for report in reports:
        notes = "\n".join(f"\n{note}" for note in report.notes)
        text = replaced(
            text, report.name, f"{report.title}.\n\n{compact(report.table())}\n{notes}\n\nMeasured on {machine}.\n"
        )
    page.write_text(text, encoding="utf-8")


def compact(table: str) -> str:
    """Return a table without the spaces and dashes that align its columns in a terminal."""
    return re.sub(r"-{3,}(:?)", lambda found: "--:" if found[1] else "---", re.sub(r" {2,}", " ", table))


def replaced(text: str, name: str, between: str) -> str:
    """Return the page with ``between`` as the text between the marks of that name.

    Raises:
        ValueError: the page has no such marks.
    """
    marks = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise ValueError(f"the page has no marks for {name!r}")
    return marks.sub(lambda _: between, text)
