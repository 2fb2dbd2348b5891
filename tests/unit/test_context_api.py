"""The public names, and errors for wrong settings before any connection."""

from __future__ import annotations

import dataclasses
import inspect
import pydoc
import subprocess
import sys
import typing

import pytest

import fedbroker
from fedbroker.context.settings import Settings
from fedbroker.errors import ConfigError
from fedbroker.trust import Identity
from fedbroker.trust.keyring import keys_table
from tests.support.context_settings import context_settings
from tests.support.wait import PROCESS_SECONDS

URL = "amqp://guest:secret-word@localhost:5672/"


ALIASES = {"Eligible", "EventName", "Listener", "Metrics", "OnRound", "OutcomeName", "Select"}
"""Types of arguments and fields: only their source and the reference page can describe them."""


def test_every_public_name_exists_and_is_documented():
    for name in fedbroker.__all__:
        value = getattr(fedbroker, name)
        assert name in {"__version__", *ALIASES} or inspect.getdoc(value), name
    assert set(fedbroker.__all__) <= set(dir(fedbroker))
    with pytest.raises(AttributeError):
        _ = fedbroker.no_such_name


FUNCTIONS = {
    "create_sync_execution_context": fedbroker.SyncBrokerContext,
    "create_async_execution_context": fedbroker.AsyncBrokerContext,
    "set_sync_execution_context": fedbroker.SyncBrokerContext,
    "set_async_execution_context": fedbroker.AsyncBrokerContext,
}


@pytest.mark.parametrize(("name", "kind"), FUNCTIONS.items())
def test_each_function_has_at_most_twelve_parameters_and_its_own_return_type(name, kind):
    function = getattr(fedbroker, name)
    assert inspect.isfunction(function)
    assert not hasattr(function, "__wrapped__")
    assert (function.__name__, function.__module__) == (name, "fedbroker.context.api")
    assert typing.get_type_hints(function)["return"] is kind
    parameters = inspect.signature(function).parameters
    assert len(parameters) <= 12
    assert [one.name for one in parameters.values() if one.kind is not inspect.Parameter.KEYWORD_ONLY] == ["url"]
    assert [one.name for one in parameters.values() if one.default is inspect.Parameter.empty] == [
        "cohort",
        "min_silos",
    ]
    assert f"-> '{kind.__name__}'\n" in pydoc.plain(pydoc.render_doc(function))


def test_all_context_functions_have_the_same_parameters():
    signatures = {
        str(inspect.signature(getattr(fedbroker, name)).replace(return_annotation=None)) for name in FUNCTIONS
    }
    assert len(signatures) == 1


def test_each_parameter_and_each_field_is_documented():
    described = inspect.getdoc(fedbroker.set_sync_execution_context)
    for name in inspect.signature(fedbroker.set_sync_execution_context).parameters:
        assert f"\n    {name}: " in described
    for kind in (fedbroker.Timeouts, fedbroker.Options):
        for one in dataclasses.fields(kind):
            assert f"\n    {one.name}: " in inspect.getdoc(kind)
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(kind(), one.name, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://localhost/"},
        {"url": "amqp://"},
        {"cohort": "Air Ports"},
        {"min_silos": 0},
        {"min_silos": 3, "max_silos": 2},
        {"join": 0},
        {"stage": -1.0},
        {"total": 0},
        {"stragglers": "ignore"},
        {"stragglers": "drop", "quorum": 1.5},
        {"stragglers": "drop", "quorum": 0.5},
        {"stragglers": "drop", "quorum": 0},
        {"stragglers": "drop", "quorum": True},
        {"stragglers": "drop", "quorum_fraction": 1.5},
        {"stragglers": "drop", "quorum_fraction": 0.0},
        {"stragglers": "drop", "quorum_fraction": 2},
        {"stragglers": "drop", "quorum": 1, "quorum_fraction": 0.5},
        {"stragglers": "drop", "grace": -1.0},
        {"quorum": 2},
        {"quorum_fraction": 0.5},
        {"grace": 2.0},
        {"select": "best"},
        {"eligible": 3},
        {"retries": -1},
        {"default_num_clients": -1},
        {"secure_sum": "maybe"},
        {"secure_sum": "masked"},  # without keys
        {"merge_order": "random"},
        {"runtime_confinement": "require"},
        {"compression": "zip"},
        {"metrics": "9464"},
        {"metrics": ""},
    ],
)
def test_wrong_settings_are_one_line_errors(wrong):
    with pytest.raises(ConfigError) as caught:
        fedbroker.create_sync_execution_context(
            **context_settings(**{"url": URL, "cohort": "airports", "min_silos": 1, **wrong})  # type: ignore[arg-type]
        )
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("settings", "members", "needed"),
    [
        ({}, 5, 5),
        ({"stragglers": "drop"}, 5, 2),
        ({"stragglers": "drop", "quorum": 3}, 5, 3),
        ({"stragglers": "drop", "quorum": 1}, 5, 1),
        ({"stragglers": "drop", "quorum_fraction": 0.5}, 5, 3),
        ({"stragglers": "drop", "quorum_fraction": 1}, 5, 5),
        ({"stragglers": "replace", "quorum_fraction": 1.0}, 5, 5),
    ],
)
def test_quorum_is_a_number_or_a_fraction(settings, members, needed):
    policy = Settings(url=URL, cohort="airports", min_silos=2, **settings).policy
    assert policy.needed(members) == needed


def test_min_silos_is_required():
    with pytest.raises(TypeError, match="min_silos"):
        fedbroker.create_sync_execution_context(URL, cohort="airports")


def test_url_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("FEDBROKER_URL", raising=False)
    with pytest.raises(ConfigError, match="FEDBROKER_URL"):
        fedbroker.create_sync_execution_context(cohort="airports", min_silos=1)
    monkeypatch.setenv("FEDBROKER_URL", URL)
    with fedbroker.create_sync_execution_context(cohort="airports", min_silos=1) as context:
        assert context.cohort == "airports"
        assert "secret-word" not in repr(context)


def test_url_comes_from_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDBROKER_URL_FILE", str(tmp_path / "url"))
    monkeypatch.delenv("FEDBROKER_URL", raising=False)
    with pytest.raises(ConfigError, match=r"FEDBROKER_URL_FILE: file .*url does not exist"):
        fedbroker.create_sync_execution_context(cohort="airports", min_silos=1)
    (tmp_path / "url").write_text(URL.replace("localhost", "from-file") + "\n")
    with fedbroker.create_sync_execution_context(cohort="airports", min_silos=1) as context:
        assert "secret-word" not in repr(context)
    with fedbroker.create_sync_execution_context("amqp://given/", cohort="airports", min_silos=1):
        pass  # an argument has priority
    monkeypatch.setenv("FEDBROKER_URL", URL)
    with pytest.raises(ConfigError, match="are both set") as caught:
        fedbroker.create_sync_execution_context(cohort="airports", min_silos=1)
    assert "secret-word" not in str(caught.value)


def test_import_of_fedbroker_is_light():
    code = "import sys, fedbroker; print(sorted({'tensorflow', 'numpy', 'aio_pika', 'grpc'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("chosen", "with_keys", "without"),
    [(None, "masked", "refuse"), ("refuse", "refuse", "refuse"), ("plaintext", "plaintext", "plaintext")],
)
def test_secure_sums_are_masked_by_default_where_there_are_keys(tmp_path, chosen, with_keys, without):
    (tmp_path / "secret.key").write_text(Identity.generate().reveal())
    (tmp_path / "secret.key").chmod(0o600)
    keys = tmp_path / "keys.toml"
    keys.write_text(f'secret_file = "secret.key"\n[silos]\newr = "{Identity.generate().public}"\n')
    options = fedbroker.Options(secure_sum=chosen)
    made = [Settings(url=URL, cohort="airports", min_silos=1, options=options, keys=path) for path in (keys, None)]
    assert [settings.secure_sum for settings in made] == [with_keys, without]


@pytest.mark.parametrize(
    ("seal", "chosen", "published"),
    [(None, None, True), (False, None, True), (True, None, False), (True, True, True), (None, False, False)],
)
def test_events_are_published_unless_the_broker_is_to_read_nothing(tmp_path, seal, chosen, published):
    keys = None
    if seal is not None:
        (tmp_path / "secret.key").write_text(Identity.generate().reveal())
        keys = tmp_path / "keys.toml"
        keys.write_text(keys_table({"ewr": Identity.generate().public}, seal=seal))
    settings = Settings(url=URL, cohort="c", min_silos=1, keys=keys, options=fedbroker.Options(events=chosen))
    assert settings.publishes_events is published
    with pytest.raises(ConfigError, match="events is 'yes'"):
        fedbroker.Options(events="yes")
