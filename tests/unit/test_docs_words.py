"""Pages are in plain English, with short table cells, and with titles as link texts."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT
from tests.support.wording import found_in, page

NAMED = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "core/README.md", "handover/README.md", "workers/README.md")
PAGES = sorted(
    [ROOT / name for name in NAMED] + [ROOT / "examples" / "sheets" / "README.md", *(ROOT / "docs").glob("*.md")]
)
WIDEST = 120
"""Characters of a table row. Wider ones wrap in an editor, and hold more than a few words in a cell."""
WIDE = {"performance.md": 2}
"""The number of wide rows by page: headings of tables with many columns."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_plain_english(path):
    assert found_in(page(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cells_are_short_and_links_have_titles(path):
    text = path.read_text(encoding="utf-8")
    wide = [line for line in text.splitlines() if line.startswith("|") and len(line) > WIDEST]
    assert len(wide) <= WIDE.get(path.name, 0), wide
    assert re.findall(r"\[[\w/.-]+\.md\]\(", text) == []
