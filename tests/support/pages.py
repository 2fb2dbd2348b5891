"""Fenced blocks of documentation pages, for the tests that run them.

A test that asks for a page's blocks of a language claims them: ``tests/unit/test_docs_blocks.py`` finds these calls,
and the unclaimed blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that its ``title="…"`` names, its text, and the page's line."""

    language: str
    title: str
    text: str
    line: int


def fenced(page: str) -> Iterator[Block]:
    """Yield all blocks of a page, in order."""
    whole = (ROOT / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(whole):
        title = re.search(r'title="([^"]*)"', found["options"])
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        line = whole.count("\n", 0, found.start()) + 1
        yield Block(found["language"], title[1] if title else "", text, line)


def blocks(page: str, language: str) -> list[str]:
    """Return a page's blocks of a language; at least one must exist."""
    found = [block.text for block in fenced(page) if block.language == language]
    assert found, f"{page} has no {language}"
    return found


def story(page: str) -> list[Block]:
    """Return all of a page's blocks, to run in order: files to write, commands, and their expected output."""
    found = list(fenced(page))
    assert found, f"{page} has no blocks"
    return found
