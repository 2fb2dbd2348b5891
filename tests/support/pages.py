"""What pages show in fenced blocks, for the tests that run it.

Whoever asks for a page's blocks of a language claims them: ``tests/unit/test_docs_blocks.py`` finds these calls, and
the blocks that none of them asks for.
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
    """A fenced block: its language, the file that its ``title="…"`` names, what is in it, and the page's line."""

    language: str
    title: str
    text: str
    line: int


def fenced(page: str) -> Iterator[Block]:
    """All blocks of a page, in turn."""
    whole = (ROOT / page).read_text(encoding="utf-8")
    for found in FENCE.finditer(whole):
        title = re.search(r'title="([^"]*)"', found["options"])
        text = re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
        line = whole.count("\n", 0, found.start()) + 1
        yield Block(found["language"], title[1] if title else "", text, line)


def blocks(page: str, language: str) -> list[str]:
    """A page's blocks of a language, of which there must be some."""
    found = [block.text for block in fenced(page) if block.language == language]
    assert found, f"{page} has no {language}"
    return found


def story(page: str) -> list[Block]:
    """All of a page's blocks, to be run in turn: files that are written, commands, and what they print."""
    found = list(fenced(page))
    assert found, f"{page} has no blocks"
    return found
