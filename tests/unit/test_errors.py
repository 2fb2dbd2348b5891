"""The tree of errors agrees with its page, and every error is one line."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import fedbroker_worker.errors
import pytest

import fedbroker.errors
from fedbroker.errors import CohortTimeout, ComputationFailed, DataError, FedbrokerError, SiloError

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def kinds():
    return {
        value
        for module in (fedbroker.errors, fedbroker_worker.errors)
        for name, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, FedbrokerError) and not name.startswith("_")
    }


def classes():
    return {value.__name__: value.code for value in kinds()}


def test_the_page_lists_each_class_with_its_code():
    rows = re.findall(r"^\| (FB\d{4}) \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert {name: code for code, name in rows} == classes()
    assert len(rows) == len(classes())


def test_codes_are_unique():
    codes = list(classes().values())
    assert len(codes) == len(set(codes))


def test_every_class_is_in_its_modules_tree_and_in_all():
    for module in (fedbroker.errors, fedbroker_worker.errors):
        own = {
            name
            for name, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__ == module.__name__ and issubclass(value, FedbrokerError) and not name.startswith("_")
        }
        assert own == set(module.__all__)
        for name in own:
            assert name in module.__doc__


@pytest.mark.parametrize(
    "error",
    [
        SiloError("ewr", "no such table", stage=0, session="s", hint="look"),
        DataError("ewr", "flights", column="x", expected="float32", found="str"),
        CohortTimeout("airports", 3, ["ewr"], ["jfk"], 60.0),
        ComputationFailed("INVALID_ARGUMENT", "assertion failed:\n\t[[{{node Assert}}]]"),
    ],
)
def test_an_error_is_one_line_with_its_code(error):
    assert str(error).startswith(f"[{error.code}] ")
    assert "\n" not in str(error)


def test_fields_are_typed():
    error = CohortTimeout("airports", 3, ["ewr"], ["jfk"], 60.0)
    assert (error.cohort, error.wanted, error.present, error.missing) == ("airports", 3, ("ewr",), ("jfk",))


WORDS = {"limit": 5, "line": 7, "seconds": 1.5, "wanted": 3, "retryable": True, "stage": 1}


def instance(kind):
    """Return an error of a class, with a value for each of its parameters."""
    values, keywords = [], {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name == "problem":
            continue
        annotation = str(parameter.annotation)
        if "Sequence[FedbrokerError]" in annotation:
            value = (SiloError("ewr", "no such table"),)
        else:
            value = ("a", "b") if "Sequence" in annotation else WORDS.get(name, f"some {name}")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            keywords[name] = value
        else:
            values.append(value)
    return kind(*values, **keywords)


@pytest.mark.parametrize("kind", sorted(kinds(), key=lambda kind: kind.code), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("again", [lambda one: pickle.loads(pickle.dumps(one)), copy.copy, copy.deepcopy])
def test_an_error_survives_pickling_and_copying(kind, again):
    error = instance(kind)
    error.computation = "total"
    error.add_note("in round 3")
    found = again(error)
    assert type(found) is kind
    assert found is not error
    assert (vars(found), found.args, str(found)) == (vars(error), error.args, str(error))
    assert type(found.code) is str


def test_fields_of_a_copy_are_independent():
    error = SiloError("ewr", "no such table")
    found = copy.copy(error)
    found.computation = "total"
    assert error.computation is None
