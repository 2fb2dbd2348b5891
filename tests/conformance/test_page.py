"""docs/compatibility.md holds the results of the conformance tests; this test runs after all others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.conformance import GROUPS, PAGE

FEATURE = re.compile(r'@feature\(\s*"(\w+)",\s*"((?:[^"\\]|\\.)+)"')


def declared() -> set[tuple[str, str]]:
    """Return every feature that marks a test: the title of its group, and its own name."""
    sources = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    return {(GROUPS[group], name) for text in sources for group, name in FEATURE.findall(text)}


def written() -> set[tuple[str, str]]:
    """Return every row of the page."""
    rows: set[tuple[str, str]] = set()
    title = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| feature"):
            rows.add((title, line.split(" | ")[0].removeprefix("| ")))
    return rows


def test_page_holds_the_results(request: pytest.FixtureRequest, record) -> None:
    if request.config.getoption("--write-page"):
        PAGE.write_text(record.page(), encoding="utf-8")
    assert written() == declared(), "run `make compatibility`"
    lines = set(PAGE.read_text(encoding="utf-8").splitlines())
    assert [row.text for row in record.rows if row.text not in lines] == [], "run `make compatibility`"
