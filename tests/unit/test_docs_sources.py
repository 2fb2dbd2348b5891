"""docs/sources.md and the sources in config/silo.example.toml: examples run, and no key is missing."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import tomllib
from pathlib import Path

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.sources import open_source
from fedbroker_worker.sources.duckdb.source import DuckDBOptions
from fedbroker_worker.sources.protocol import installed_kinds
from fedbroker_worker.sources.python import PythonOptions
from fedbroker_worker.sources.sheets.source import SheetsOptions
from fedbroker_worker.sources.sql.source import SqlOptions

from examples.sheets.server import SheetsServer
from fedbroker.wire.messages import Column, Source
from tests.support.google_sheets import SPREADSHEET_KEY, STAY_ROWS, share_spreadsheet
from tests.support.pages import blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sources.md").read_text()
EXAMPLE = (ROOT / "config" / "silo.example.toml").read_text()
OPTIONS = {"duckdb": DuckDBOptions, "python": PythonOptions, "sheets": SheetsOptions, "sql": SqlOptions}
DEFAULTED = {"memory_limit", "threads", "worksheet", "range", "columns", "endpoint"}  # the default is in words


def section(kind):
    (found,) = re.findall(rf"^## `{kind}`: .*?\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    return found


def shown(kind):
    """Return the example of a kind: its source's name and its keys."""
    examples = [tomllib.loads(toml)["data"] for toml in blocks("docs/sources.md", "toml")]
    ((name, keys),) = [item for example in examples for item in example.items() if item[1].pop("source") == kind]
    return name, keys


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Create a directory with the files that the examples name."""
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "flights.csv").write_text("dep_delay\n10\n\n20\n")
    with contextlib.closing(sqlite3.connect(tmp_path / "hospital.db")) as database, database:
        database.execute("create table stays (ward text, days integer, admitted text)")
        rows = [("a", 1, "x"), ("b", 2, "y"), ("a", None, "z")]
        database.executemany("insert into stays values (?, ?, ?)", rows)
    database.close()
    (tmp_path / "database.url").write_text("sqlite:///hospital.db\n")
    (program,) = blocks("docs/sources.md", "python")
    (tmp_path / "registry.py").write_text(program)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        ("duckdb", Source((Column("dep_delay", "float32"),))),
        ("sql", Source((Column("days", "int64"), Column("admitted", "str")), rows=2, clients=2)),
        ("python", Source((Column("days", "float32"), Column("ward", "str")), rows=2)),
    ],
)
def test_each_example_is_a_valid_source(here, kind, described):
    name, keys = shown(kind)
    source = open_source(name, kind, keys, here)
    assert source.describe() == described
    assert source.count() == 2
    assert len(source.read([column.name for column in described.columns])) == described.clients


def test_spreadsheet_example_is_a_valid_source(here):
    name, keys = shown("sheets")
    with SheetsServer(key_size=1024) as google:
        local = share_spreadsheet(google, here)
        google.books["THE-KEY-OF-YOUR-SPREADSHEET"] = google.books.pop(SPREADSHEET_KEY)
        source = open_source(name, "sheets", keys | {"endpoint": local["endpoint"]}, here)
        # A date with a time of day is not a date.
        google.books["THE-KEY-OF-YOUR-SPREADSHEET"].sheets["Stays"][2] = [*STAY_ROWS[2][:4], 41277]
        assert source.describe() == Source((Column("days", "float64"), Column("admitted", "int32")), rows=3)
        assert source.read(["admitted"])[0]["admitted"].tolist() == [15706, 15708, 15707]


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_each_key_is_in_its_table_with_its_default(kind):
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", section(kind), re.MULTILINE))
    fields = {field.name: field.default for field in dataclasses.fields(OPTIONS[kind])}
    assert table.keys() == fields.keys()
    for name, told in table.items():
        if name not in DEFAULTED:
            value = fields[name]
            expected = "" if value in (None, dataclasses.MISSING) else f"`{value}`".replace("`error`", '`"error"`')
            assert told == expected, name


def test_each_kind_has_a_section():
    assert set(re.findall(r"^## `(\w+)`", PAGE, re.MULTILINE)) == set(OPTIONS) <= set(installed_kinds())


def test_examples_in_the_silo_settings_are_valid(here):
    text = re.sub(r"^# (?=\[data\.|\w+ = )", "", EXAMPLE.partition("[limits]")[0].partition("# threads")[2], flags=re.M)
    path = here / "silo.toml"
    path.write_text('[silo]\nname = "a"\ncohort = "b"\nbroker = "amqp://localhost/"\n' + text.partition("\n")[2])
    data = load(path, {}).data
    assert {one.kind for one in data.values()} == {"sheets", "sql", "python"}
    for name, one in data.items():
        open_source(name, one.kind, one.options, here)
        left_out = {"url", "endpoint", "clients" if one.kind == "python" else ""}
        assert set(one.options) == {field.name for field in dataclasses.fields(OPTIONS[one.kind])} - left_out, name
