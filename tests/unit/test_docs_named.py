"""The tests that pages name as their proof exist."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT

TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", ["docs/keys.md", "docs/secure-sums.md", "docs/security.md"])
def test_every_named_test_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named, files = set(re.findall(r"`(test_\w+)`", text)), set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert len(named) > 8
    assert sorted(name for name in named if f"def {name}(" not in TESTS) == []
    assert sorted(file for file in files if not (ROOT / file).exists()) == []
