"""Docstrings and comments are in plain English: words that hide the actor of a sentence do not come back.

A sentence names its actor (silo, coordinator, broker, caller), so none begins with "What", "Who", "Whose" or "Whether"
unless it is a question. Pages: ``test_docs_words.py``.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = {
    "a sentence that begins with a question word": re.compile(
        r"(?:^|[.!?:;]\s+)(?:What|Who|Whom|Whose|Whether)\b(?![^.!?]*\?)[^.]*", re.MULTILINE
    ),
    "an actor without a name": re.compile(
        r"\b(?:nobody|somebody|everybody|anybody|whoever|whatever|wherever|whomever)\b", re.IGNORECASE
    ),
    "a literary word": re.compile(r"\b(?:anew|amid|meanwhile|seldom|at the worst|by and by)\b", re.IGNORECASE),
}
SOURCES = sorted(path for part in ("fedbroker", "workers/fedbroker_worker") for path in (ROOT / part).rglob("*.py"))


def docstrings_and_comments(source: str) -> Iterator[str]:
    """Yield the docstrings, the strings that document attributes, and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_names_its_actors(path):
    prose = list(docstrings_and_comments(path.read_text(encoding="utf-8")))
    found = [(why, one.group()) for text in prose for why, words in BANNED.items() for one in words.finditer(text)]
    assert not found


def test_each_kind_of_word_is_found():
    prose = "What a silo refused. Nobody asked. It starts anew. What is it? The silo that refused it is named."
    assert [len(words.findall(prose)) for words in BANNED.values()] == [1, 1, 1]
    assert list(docstrings_and_comments('"""One."""\nX = 1\n"""Two."""\n# Three.\n')) == ["One.", "Two.", "Three."]
