"""Each target over its committed corpus and a few thousand mutations; `make fuzz` tries a million."""

from __future__ import annotations

import psutil
import pytest

from tests.fuzz.graphs import PLACE
from tests.fuzz.importer import CRASH, REFUSED, imported
from tests.fuzz.importer import __name__ as IMPORTER
from tests.fuzz.running import corpus, run
from tests.fuzz.targets import TARGETS

EXECUTIONS = 3000


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_raises_only_our_own_errors(name):
    outcome = run(name, EXECUTIONS, seed=0)
    assert not outcome.failure, f"{outcome.failure}\n{outcome.culprit!r}"
    assert outcome.executions == EXECUTIONS
    assert outcome.taken > 20  # otherwise the corpus is noise


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_has_a_corpus(name):
    assert len(corpus(name)) >= 5


def test_importer_answers_each_request_once_even_if_its_child_dies():
    graphs = [data.replace(PLACE, b"x" * len(PLACE)) for data in corpus("graph")]
    first, second = [(data, ops) for data in graphs if (ops := imported(data, run=False)) not in (CRASH, REFUSED)][:2]
    (process,) = (child for child in psutil.Process().children() if IMPORTER in child.cmdline())
    (child,) = process.children()
    child.kill()
    answers = [imported(data, run=False) for data, _ in (first, first, second, first)]
    assert answers[1:] == [first[1], second[1], first[1]]
    assert answers[0] in (CRASH, first[1])
