"""Summaries of a source's data, for every kind of source."""

from __future__ import annotations

import contextlib
import sqlite3

import numpy as np
import pytest
from fedbroker_worker.config import SourceSettings
from fedbroker_worker.errors import ColumnError
from fedbroker_worker.sources import open_source
from fedbroker_worker.sources.catalog import OpenSource
from fedbroker_worker.sources.profile import ColumnProfile, profile_by_reading

from examples.sheets.server import SheetsServer
from fedbroker.wire.messages import Column, Source
from tests.support.google_sheets import share_spreadsheet

ROWS = [(1, "2013-01-01", "a"), (2, "2013-01-02", None), (2, "2013-01-03", "c")]


def duckdb(path, **options):
    values = ", ".join(f"({k}, date '{day}', {'NULL' if name is None else repr(name)})" for k, day, name in ROWS)
    return open_source("t", "duckdb", {"query": f"select * from (values {values}) t(k, day, name)", **options}, path)


def sql(path, **options):
    with contextlib.closing(sqlite3.connect(path / "t.db")) as connection, connection:
        connection.execute("create table t (k int, day text, name text)")
        connection.executemany("insert into t values (?, ?, ?)", ROWS)
    own = {"url": "sqlite:///t.db", "query": "select k, day, name from t", "types": {"day": "date"}, "batch_rows": 2}
    return open_source("t", "sql", {**own, **options}, path)


@pytest.mark.parametrize("kind", [duckdb, sql])
def test_profile_counts_nulls_and_finds_bounds(kind, tmp_path):
    found = kind(tmp_path, clients="k").profile(2)
    day, name = found.columns
    assert day == ColumnProfile("day", "int32 (date)", 0, "2013-01-01", "2013-01-03")
    assert name == ColumnProfile("name", "str", 1, "a", "c")
    assert (found.rows, found.by_client, found.error) == (3, (1, 2), None)
    assert found.head == (("2013-01-01", "a"), ("2013-01-02", None))


@pytest.mark.parametrize("kind", [duckdb, sql])
def test_profile_of_one_client_has_no_rows_by_client(kind, tmp_path):
    assert kind(tmp_path).profile(0).by_client is None


def test_sql_profile_finds_a_cell_of_another_type(tmp_path):
    found = sql(tmp_path, types={"day": "date", "name": "int32"}).profile(1)
    (error,) = [column.error for column in found.columns if column.error]
    assert "column 'name' is int32, but holds text in row 1" in str(error)


def test_duckdb_profile_finds_rows_of_different_lengths(tmp_path):
    found = duckdb(tmp_path, query="select unnest([[1], [2, 3]]) as v, 1 as x").profile(5)
    assert "rows of different lengths" in str(found.columns[0].error)
    assert found.columns[1].error is None
    assert found.head == (("[1]", "1"), ("[2, 3]", "1"))


def test_sheets_profile_names_empty_cells(tmp_path):
    with SheetsServer(key_size=1024) as server:
        options = share_spreadsheet(server, tmp_path, [["x", "y"], [1, "a"], ["", "b"], [3, "c"]])
        found = open_source("t", "sheets", options, tmp_path).profile(2)
    x, y = found.columns
    assert (x.nulls, x.least, x.greatest, y.nulls) == (1, "1", "3", 0)
    assert found.head == (("1", "a"), (None, "b"))
    assert found.query == "the first worksheet"


def test_python_profile_is_read_column_by_column(tmp_path):
    (tmp_path / "profiled_module.py").write_text("def f():\n    return {'x': [1, 2, 3], 'name': ['b', 'a', 'c']}\n")
    found = open_source("t", "python", {"callable": "profiled_module:f"}, tmp_path).profile(1)
    assert found.columns == (ColumnProfile("x", "int64", 0, "1", "3"), ColumnProfile("name", "str", 0, "a", "c"))
    assert (found.query, found.head) == ("profiled_module:f", (("1", "b"),))


def test_source_of_another_package_is_summarised_by_its_reads():
    class Other:
        def read(self, columns):
            return [{columns[0]: np.arange(2.0)}, {columns[0]: np.zeros(0)}]

    found = profile_by_reading("t", Other(), Source((Column("x", "float64"),), clients=2), 5)
    assert (found.rows, found.by_client, found.head) == (2, (2, 0), (("0.0",), ("1.0",)))


async def test_profile_ends_at_its_time_limit(tmp_path):
    slow = "select count(*) as n from range(10000000) a, range(10000000) b where hash(a.range) > hash(b.range)"
    source = await OpenSource.open("slow", SourceSettings("duckdb", {"query": slow}), tmp_path)
    try:
        with pytest.raises(TimeoutError):
            await source.profile(5, 0.2)
    finally:
        await source.close()


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (
            duckdb,
            {"query": "select time '10:00' as t, interval 1 day as i, 1 as x"},
            "source 't': column 't' is of the SQL type TIME, which is not supported; "
            "column 'i' is of the SQL type INTERVAL, which is not supported; ",
        ),
        (
            sql,
            {"query": "select null as a, 1 as x, null as b", "types": {}},
            "source 't': column 'a' has no value in its first 1 rows from which to infer its type; column 'b' has no ",
        ),
    ],
)
def test_error_of_a_description_names_all_columns(kind, options, said, tmp_path):
    with pytest.raises(ColumnError) as caught:
        kind(tmp_path, **options).describe()
    assert said in str(caught.value)
