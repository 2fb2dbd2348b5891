"""Each target over its committed corpus and a few thousand inputs made of it; `make fuzz` tries a million."""

from __future__ import annotations

import pytest

from tests.fuzz.running import corpus, run
from tests.fuzz.targets import TARGETS

EXECUTIONS = 3000
FEWER = {"graph": 300}
"""TensorFlow imports and runs each graph, which takes some 20 ms."""


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_only_our_own_errors_are_raised(name):
    executions = FEWER.get(name, EXECUTIONS)
    outcome = run(name, executions, seed=0)
    assert not outcome.failure, f"{outcome.failure}\n{outcome.culprit!r}"
    assert outcome.executions == executions
    assert outcome.taken > 20  # else the corpus is noise


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_has_a_corpus(name):
    assert len(corpus(name)) >= 5
