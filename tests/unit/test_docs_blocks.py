"""Each fenced block of each page is claimed by a test, which runs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.pages import ROOT, fenced

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
DRAWN = {"mermaid"}
"""Diagrams: they hold nothing that runs."""


def claims(path: Path) -> set[tuple[str, str]]:
    """Return pages and languages of a file's calls of ``blocks`` and ``story``; the latter claims all languages."""
    asked = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name("blocks"), args=[ast.Constant(str(page)), ast.Constant(str(language))]):
                asked.add((page, language))
            case ast.Call(func=ast.Name("story"), args=[ast.Constant(str(page))]):
                asked.add((page, ""))
    return asked


CLAIMED = {claim for path in (ROOT / "tests").rglob("test_*.py") for claim in claims(path)}


@pytest.mark.parametrize("page", PAGES)
def test_each_block_is_run_by_a_test(page):
    for block in fenced(page):
        at = f"{page}, line {block.line}"
        assert block.language, f"{at}: say the language after the backticks"
        claimed = {(page, block.language), (page, "")} & CLAIMED
        assert claimed or block.language in DRAWN, f'{at}: no test asks for blocks("{page}", "{block.language}")'


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_parsed(page):
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    fences = [line for line in lines if line.lstrip().startswith(("```", "~~~"))]
    assert len(fences) == 2 * len(list(fenced(page)))


def test_claims_are_the_literal_calls(tmp_path):
    test = tmp_path / "test_some.py"
    test.write_text('blocks("docs/a.md", "sh")\nstory("docs/b.md")\nblocks(page, "sh")\n')
    assert claims(test) == {("docs/a.md", "sh"), ("docs/b.md", "")}
