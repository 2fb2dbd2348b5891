"""Each target over its committed corpus and a few thousand inputs made of it; `make fuzz` tries a million."""

from __future__ import annotations

import pytest

from tests.fuzz.running import corpus, run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_only_our_own_errors_are_raised(name):
    outcome = run(name, 3000, seed=0)
    assert not outcome.failure, f"{outcome.failure}\n{outcome.culprit!r}"
    assert outcome.executions == 3000
    assert outcome.taken > 20  # else the corpus is noise


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_has_a_corpus(name):
    assert len(corpus(name)) >= 5
