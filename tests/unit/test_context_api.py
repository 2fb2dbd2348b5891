"""The public names, and what they say to wrong settings before anything is connected."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import fedbroker
from fedbroker.errors import ConfigError

URL = "amqp://guest:secret-word@localhost:5672/"


def test_every_public_name_is_there_and_documented():
    for name in fedbroker.__all__:
        value = getattr(fedbroker, name)
        assert name == "__version__" or inspect.getdoc(value), name
    assert set(fedbroker.__all__) <= set(dir(fedbroker))
    with pytest.raises(AttributeError):
        _ = fedbroker.no_such_name


def test_setting_has_the_signature_of_creating():
    for kind in ("sync", "async"):
        create = getattr(fedbroker, f"create_{kind}_execution_context")
        set_default = getattr(fedbroker, f"set_{kind}_execution_context")
        assert inspect.signature(create) == inspect.signature(set_default)
        assert set_default.__name__ == f"set_{kind}_execution_context"


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://localhost/"},
        {"url": "amqp://"},
        {"cohort": "Air Ports"},
        {"min_silos": 0},
        {"min_silos": 3, "max_silos": 2},
        {"join_timeout": 0},
        {"stage_timeout": -1.0},
        {"deadline": 0},
        {"stragglers": "ignore"},
        {"stragglers": "drop", "quorum": 1.5},
        {"stragglers": "drop", "quorum": 0},
        {"stragglers": "drop", "grace": -1.0},
        {"quorum": 2},
        {"grace": 2.0},
        {"select": "best"},
        {"eligible": 3},
        {"retries": -1},
        {"default_num_clients": -1},
        {"secure_sum": "maybe"},
        {"runtime_confinement": "require"},
        {"compression": "zip"},
        {"metrics": "9464"},
        {"metrics": ""},
    ],
)
def test_wrong_settings_are_one_line(wrong):
    with pytest.raises(ConfigError) as caught:
        fedbroker.create_sync_execution_context(**{"url": URL, "cohort": "airports", **wrong})
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_the_url_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("FEDBROKER_URL", raising=False)
    with pytest.raises(ConfigError, match="FEDBROKER_URL"):
        fedbroker.create_sync_execution_context(cohort="airports")
    monkeypatch.setenv("FEDBROKER_URL", URL)
    with fedbroker.create_sync_execution_context(cohort="airports") as context:
        assert context.cohort == "airports"
        assert "secret-word" not in repr(context)


def test_the_url_comes_from_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDBROKER_URL_FILE", str(tmp_path / "url"))
    monkeypatch.delenv("FEDBROKER_URL", raising=False)
    with pytest.raises(ConfigError, match=r"FEDBROKER_URL_FILE: there is no file .*url"):
        fedbroker.create_sync_execution_context(cohort="airports")
    (tmp_path / "url").write_text(URL.replace("localhost", "from-file") + "\n")
    with fedbroker.create_sync_execution_context(cohort="airports") as context:
        assert "secret-word" not in repr(context)
    with fedbroker.create_sync_execution_context("amqp://given/", cohort="airports"):
        pass  # what is passed wins
    monkeypatch.setenv("FEDBROKER_URL", URL)
    with pytest.raises(ConfigError, match="are both set") as caught:
        fedbroker.create_sync_execution_context(cohort="airports")
    assert "secret-word" not in str(caught.value)


def test_importing_fedbroker_imports_next_to_nothing():
    code = "import sys, fedbroker; print(sorted({'tensorflow', 'numpy', 'aio_pika', 'grpc'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
