"""The policy for property tests: no deadline for one example, set in one place (``tests/conftest.py``)."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import settings

TESTS = Path(__file__).parents[1]


def test_no_example_has_a_deadline():
    assert settings().deadline is None


def test_no_test_sets_its_own_deadline():
    own = re.compile(r"\bsettings\([^)]*\bdeadline=")
    found = [path.name for path in TESTS.rglob("test_*.py") if own.search(path.read_text(encoding="utf-8"))]
    assert found == []
