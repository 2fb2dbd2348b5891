"""Notebooks and editors complete the four context functions: their parameters by name, and what they return (Jedi)."""

from __future__ import annotations

import inspect
from pathlib import Path

import jedi
import pytest

import fedbroker

ROOT = Path(__file__).parents[2]
FUNCTIONS = {
    "set_sync_execution_context": "SyncBrokerContext",
    "set_async_execution_context": "AsyncBrokerContext",
    "create_sync_execution_context": "SyncBrokerContext",
    "create_async_execution_context": "AsyncBrokerContext",
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keep what Jedi has parsed out of the home directory."""
    before, jedi.settings.cache_directory = jedi.settings.cache_directory, tmp_path_factory.mktemp("jedi")
    yield
    jedi.settings.cache_directory = before


def script(code):
    return jedi.Script(f"import fedbroker\n{code}", project=jedi.Project(ROOT))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_parameter_is_completed_and_shown(name):
    parameters = list(inspect.signature(getattr(fedbroker, name)).parameters)
    assert len(parameters) <= 13, "the URL and at most twelve settings"
    call = script(f"fedbroker.{name}(")
    completed = [one.name for one in call.complete() if one.name.endswith("=")]
    assert completed == sorted(f"{parameter}=" for parameter in parameters)
    (signature,) = call.get_signatures()
    assert [parameter.name for parameter in signature.params] == ["url", *parameters[1:]]
    assert signature.docstring().count("*args") == signature.docstring().count("**kwargs") == 0


@pytest.mark.parametrize(("name", "context"), FUNCTIONS.items())
def test_the_returned_context_is_known(name, context):
    made = script(f'made = fedbroker.{name}("amqp://", cohort="c", min_silos=2)\nmade')
    assert [one.name for one in made.infer(3, 2)] == [context]
    assert [one.name for one in script(f'fedbroker.{name}(cohort="c", min_silos=2).clo').complete()] == ["close"]


def test_the_functions_are_completed_from_the_package():
    completed = {one.name for one in script("fedbroker.").complete()}
    assert completed.issuperset({*FUNCTIONS, "Timeouts", "Options", "errors"})
