"""The public names: exports, reference page and ``help`` agree, and they suffice."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import fedbroker
import fedbroker.program
import fedbroker.testing
import fedbroker.tracking
from fedbroker.session.report import SessionReport
from tests.support.wait import PROCESS_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^::: (\S+)$", PAGE, re.MULTILINE)


def test_page_lists_exactly_the_public_names():
    names = [f"fedbroker.{name}" for name in fedbroker.__all__ if name != "FedbrokerError"]  # with all errors
    for module in (fedbroker.program, fedbroker.testing, fedbroker.tracking):
        names += [f"{module.__name__}.{name}" for name in module.__all__]
    assert sorted(LISTED) == sorted([*names, "fedbroker.errors"])


def test_page_states_that_all_other_names_are_private():
    assert "Everything else is private" in PAGE
    assert "every other module is private" in fedbroker.__doc__


def test_help_shows_each_name():
    text = pydoc.plain(pydoc.render_doc(fedbroker))
    names = [name for name in fedbroker.__all__ if name != "__version__"]  # under its own heading
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
    assert f"VERSION\n    {fedbroker.__version__}" in text


def test_root_exports_the_modules():
    program = "import fedbroker; print(fedbroker.errors.ConfigError.code, sorted(set(dir(fedbroker)) & {'errors'}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS
    )
    assert done.stdout == "FB1001 ['errors']\n"


def fedbroker_classes(kind: object) -> set[type]:
    """Return fedbroker's classes in an annotation."""
    if inspect.isclass(kind):
        return {kind} if kind.__module__.startswith("fedbroker.") else set()
    return set().union(*map(fedbroker_classes, typing.get_args(kind)))


@pytest.mark.parametrize("kind", [SessionReport, fedbroker.Event, fedbroker.Member, fedbroker.Options])
def test_types_in_callbacks_and_reports_are_exported(kind):
    todo, seen = {kind}, set()
    public = {getattr(fedbroker, name) for name in fedbroker.__all__ if inspect.isclass(getattr(fedbroker, name))}
    while todo:
        one = todo.pop()
        seen.add(one)
        for annotation in typing.get_type_hints(one).values():
            todo |= fedbroker_classes(annotation) - seen
    assert seen <= public


def test_cohort_shows_only_public_methods():
    names = {name for name in dir(fedbroker.Cohort("amqp://x/", "airports")) if not name.startswith("_")}
    assert names == {"close", "name", "open", "silos", "wait"}
