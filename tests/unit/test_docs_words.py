"""Pages are in plain English: no word of a literary register, no clause in the place of a subject, titles as links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import FENCE, ROOT

PAGES = sorted(
    [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "workers/README.md")]
    + [ROOT / "examples" / "sheets" / "README.md", *(ROOT / "docs").glob("*.md")]
)
LITERARY = re.compile(
    r"\b(?:nobody|somebody|everybody|anybody|whoever|whatever|wherever|whichever|whomever"
    r"|anew|amid|beside|meanwhile|seldom|at the worst|there (?:is|are|was|were)|such,)(?=\W)",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"(?:^|[.!?:;]\s+)(?:What|Who|Whom|Whose|Whether)\b[^.!?]*[.!]", re.MULTILINE)
"""A sentence that begins with one of these words, and is no question."""
WIDEST = 120
"""Characters of a row. Wider ones wrap in an editor, and mean that a cell holds more than a few words."""
WIDE = {"performance.md": 2}
"""Rows that are headings of tables with many columns."""


def prose(page: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"`[^`]*`", "``", FENCE.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_a_literary_word(page):
    assert LITERARY.findall(prose(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_begins_with_a_clause(page):
    assert CLAUSE.findall(prose(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_cells_are_short_and_links_have_titles(page):
    text = page.read_text(encoding="utf-8")
    wide = [line for line in text.splitlines() if line.startswith("|") and len(line) > WIDEST]
    assert len(wide) <= WIDE.get(page.name, 0), wide
    assert re.findall(r"\[[\w/.-]+\.md\]\(", text) == []


def test_what_is_banned_is_found():
    assert LITERARY.findall("It is made anew. There is one.") == ["anew", "There is"]
    assert CLAUSE.findall("Fine. What it does is this. What next?") == [". What it does is this."]
