"""The worker's own kinds of sources: each is found, and imported only if it is used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fedbroker_worker.sources.protocol import GROUP, installed_kinds

from examples.sheets.server import SheetsServer
from tests.support.google_sheets import share_spreadsheet
from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]

_OPEN = """
import json, sys
from pathlib import Path
for name in json.loads(sys.argv[4]):
    sys.modules[name] = None  # as if it were not installed
hosts = []
sys.addaudithook(lambda event, args: hosts.append(args[0]) if event == "socket.getaddrinfo" else None)
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.sources import open_source
try:
    source = open_source("own", sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
    rows = source.count()
except SettingsError as error:
    print(error)
else:
    heavy = [name for name in ("duckdb", "gspread", "google.auth", "requests", "sqlalchemy") if name in sys.modules]
    print(json.dumps({"rows": rows, "heavy": heavy, "hosts": hosts}))
"""


def opened(directory, kind, options, *, without=()):
    """Return a fresh interpreter's description of a source."""
    arguments = [kind, json.dumps(options), str(directory), json.dumps(without)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{_OPEN}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_registry_and_the_entry_points_name_the_same_kinds():
    points = tomllib.loads((ROOT / "workers" / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    assert set(points) <= set(installed_kinds())
    registry = (ROOT / "workers" / "fedbroker_worker" / "sources" / "protocol.py").read_text()
    assert {f"fedbroker_worker.sources.{where}" for where in re.findall(r'"(\w+:\w+)"', registry)} == set(
        points.values()
    )


def test_silo_imports_only_the_needs_of_its_sources(tmp_path):
    (tmp_path / "own.py").write_text("def read():\n    return {'x': [1]}\n")
    assert json.loads(opened(tmp_path, "python", {"callable": "own:read"}))["heavy"] == []
    assert json.loads(opened(tmp_path, "duckdb", {"query": "select 1 as x"}))["heavy"] == ["duckdb"]
    in_memory = {"url": "sqlite://", "query": "select 1 as x"}
    assert json.loads(opened(tmp_path, "sql", in_memory)) == {"rows": 1, "heavy": ["sqlalchemy"], "hosts": []}


def test_silo_connects_to_no_other_google_hosts(tmp_path):
    with SheetsServer(key_size=1024) as server:
        found = json.loads(opened(tmp_path, "sheets", share_spreadsheet(server, tmp_path)))
    assert found["rows"] == 3
    assert found["heavy"] == ["gspread", "google.auth", "requests"]
    assert set(found["hosts"]) == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("kind", "missing", "options"),
    [("sheets", "gspread", {}), ("sheets", "google", {}), ("sql", "sqlalchemy", {})],
)
def test_missing_extra_is_named(tmp_path, kind, missing, options):
    assert opened(tmp_path, kind, options, without=[missing]) == (
        f"[FB4201] [data.own]: the source {kind!r} needs {missing}, which is not installed; "
        f"install fedbroker-worker[{kind}]"
    )
