"""The source ``sql`` on SQLite, with SQLAlchemy and a real file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

import pytest
from fedbroker_worker.errors import ColumnError, SettingsError, SourceError
from fedbroker_worker.sources import DataSource, open_source
from fedbroker_worker.sources.sql.source import one_select

from fedbroker.wire.messages import Column, Source
from tests.support.wait import wait_until

ROWS = """
    create table stays (ward text, days integer, weight real, note blob);
    insert into stays values ('b', 3, 1.5, x'00ff'), ('a', 1, 2, 'x'), ('b', 2, 2.5, 'y');
    create table wards (ward text);
    insert into wards values ('c'), ('b'), ('a'), ('a');
"""
ENDLESS = "with recursive t(i) as (select 1 union all select i + 1 from t)"


@pytest.fixture
def stays(tmp_path):
    """Return ``stays(query, **options)``: a source over its own database."""
    with contextlib.closing(sqlite3.connect(tmp_path / "stays.db")) as database, database:
        database.executescript(ROWS)
    database.close()

    def make(query="select ward, days, weight from stays", **options):
        return open_source("stays", "sql", {"url": "sqlite:///stays.db", "query": query} | options, tmp_path)

    return make


def line(error, function, *arguments):
    """Return the line of an error."""
    with pytest.raises(error) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values(source, *columns):
    (rows,) = source.read(columns)
    return {name: rows[name].tolist() for name in columns}


def test_columns_have_the_types_of_their_values(stays):
    source = stays("select ward, days, weight, note from stays;  -- all\n")
    assert isinstance(source, DataSource)
    columns = (Column("ward", "str"), Column("days", "int64"), Column("weight", "float64"), Column("note", "str"))
    assert source.describe() == Source(columns, rows=3)
    assert source.count() == 3
    (rows,) = source.read(["weight", "ward", "days", "ward", "note"])
    assert {name: array.dtype.name for name, array in rows.items()} == {
        "weight": "float64", "ward": "object", "days": "int64", "note": "object",
    }  # fmt: skip
    assert rows["days"].tolist() == [3, 1, 2]
    assert rows["weight"].tolist() == [1.5, 2.0, 2.5]
    assert rows["note"].tolist() == [b"\x00\xff", "x", "y"]


@pytest.mark.parametrize(
    ("word", "cells", "expected"),
    [
        ("float32", "1, 2.5", [1.0, 2.5]),
        ("bool", "0, 1", [False, True]),
        ("date", "'2013-01-01', '1969-12-31'", [15706, -1]),
        ("datetime", "'1970-01-01 00:00:01.5', '1970-01-01T02:00:00+02:00'", [1_500_000, 0]),
        ("str", "1, 'x'", ["1", "x"]),
        ("int8", "-128, 2.0", [-128, 2]),
        ("uint64", "0, 9223372036854775807", [0, 9223372036854775807]),
    ],
)
def test_configured_types_are_used(stays, word, cells, expected):
    source = stays(f"select column1 as x from (values ({cells.replace(', ', '), (')}))", types={"x": word})
    assert values(source, "x")["x"] == expected
    assert source.describe().columns == (Column("x", {"date": "int32", "datetime": "int64"}.get(word, word)),)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1000])
def test_rows_are_read_in_batches_in_order(stays, size):
    source = stays("select days, ward from stays order by days desc", batch_rows=size, clients="ward")
    assert source.describe().clients == 2
    assert [rows["days"].tolist() for rows in source.read(["days"])] == [[1], [3, 2]]


def test_describe_reads_only_the_first_rows(stays):
    described = stays(f"{ENDLESS} select i, i / 2.0 as half from t", batch_rows=100).describe()
    assert described == Source((Column("i", "int64"), Column("half", "float64")))


def test_percent_signs_and_colons_are_passed_to_the_database(stays):
    assert values(stays("select days, 'a:b' as x from stays where ward like 'b%' and ':c' <> '%s'"), "days", "x") == {
        "days": [3, 2],
        "x": ["a:b", "a:b"],
    }


def test_empty_result_has_the_configured_types(stays):
    source = stays("select days, ward from stays where false", types={"days": "int32", "ward": "str"})
    assert source.describe() == Source((Column("days", "int32"), Column("ward", "str")), rows=0)
    assert values(source, "days") == {"days": []}


def test_empty_result_is_announced_and_its_types_are_inferred_once_it_has_rows(stays):
    source = stays("select days from stays where days > 1000")
    assert source.describe() == Source((Column("days", "float64"),), rows=0)
    assert values(source, "days") == {"days": []}


@pytest.mark.parametrize(
    ("query", "options", "said"),
    [
        ("select nope from stays", {}, "no such column: nope; correct its query or its url"),
        ("select null as x", {}, "column 'x' has no value in its first 1 rows from which to infer its type"),
        ("select 1 as x union all select null", {}, "column 'x' has a NULL in row 2; add `where x is not null` to the"),
        ("select 1 as x union all select 'secret'", {}, "column 'x' holds int64 and str; set its type: types.x"),
        ("select 1 as x, 2 as x", {}, "column 'x' occurs twice in the query; give one of them another name"),
        ("values ('secret')", {"types": {"column1": "int32"}}, "is int32, but holds text in row 1; correct it, or set"),
        ("select 300 as x", {"types": {"x": "int8"}}, "column 'x' holds 300, which int8 cannot"),
        ("select 'x' as x", {"types": {"x": "date"}}, "column 'x' is date, but holds text in row 1"),
    ],
)
def test_mismatched_values_are_a_one_line_error(stays, query, options, said):
    source = stays(query, **options)

    def read():
        source.read([column.name for column in source.describe().columns])

    told = line(SourceError, read)
    assert said in told
    assert "secret" not in told


def test_type_that_appears_after_the_first_rows_is_an_error(stays):
    source = stays("select days from stays order by days", batch_rows=2)
    source.describe()
    later = stays(f"{ENDLESS} select case when i = 5 then 2.5 else i end as x from t limit 6", batch_rows=4)
    assert later.describe().columns == (Column("x", "int64"),)
    said = line(ColumnError, later.read, ["x"])
    assert "column 'x' is int64, but holds float64 in row 5; correct it, or set its type: types.x" in said
    assert said.endswith('= "float64"')


@pytest.mark.parametrize("query", ["delete from stays", "select 1; select 2", "", "-- select 1", "pragma user_version"])
def test_a_query_is_one_select(stays, query):
    assert "'query' in [data.stays] is not one SELECT; write one" in line(SettingsError, lambda: stays(query))


@pytest.mark.parametrize(
    ("text", "statement"),
    [
        ("select 1", "select 1"),
        ("  SELECT ';' as x ; ", "SELECT ';' as x"),
        ("(select 1) union (select 2)", "(select 1) union (select 2)"),
        ("with t as (select 1) select * from t; -- done; really", "with t as (select 1) select * from t"),
        ("/* a; b */ values (1)", "/* a; b */ values (1)"),
        ("select $a$ ; $b$ ; $a$, \"a;b\", 'it''s;', `;`", "select $a$ ; $b$ ; $a$, \"a;b\", 'it''s;', `;`"),
        ("select 1; drop table t", None),
        ("select ';'; drop table t", None),
        ("insert into t select 1", None),
        ("$$ select 1 $$", None),
        (";", None),
    ],
)
def test_single_select_is_recognised_by_first_word_and_semicolons(text, statement):
    assert one_select(text) == statement


def test_source_is_read_only(stays, tmp_path):
    source = stays("with t as (select 1) insert into wards select 'x'", types={})
    assert "attempt to write a readonly database" in line(SourceError, source.describe)
    with contextlib.closing(sqlite3.connect(tmp_path / "stays.db")) as database, database:
        assert database.execute("select count(*) from wards").fetchone() == (4,)
    database.close()


def test_clients_by_a_column_and_by_a_query(stays):
    source = stays(clients="ward")
    assert source.describe() == Source((Column("days", "int64"), Column("weight", "float64")), rows=3, clients=2)
    assert [rows["days"].tolist() for rows in source.read(["days"])] == [[1], [3, 2]]
    listed = stays(clients="select ward from wards")
    assert listed.describe().clients == 3
    assert [rows["days"].tolist() for rows in listed.read(["days"])] == [[1], [3, 2], []]
    numbers = stays("select days, weight from stays", clients="select 10 as days union select 3 union select 1")
    assert "1 of 3 rows are of no client that it announced; add their days to the query of 'clients'" in line(
        SourceError, numbers.read, ["weight"]
    )
    twice = stays("select days, days as key, weight from stays", clients="key")
    assert [rows["days"].tolist() for rows in twice.read(["days"])] == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("clients", "error", "said"),
    [
        (
            "nope",
            SettingsError,
            "'clients' in [data.stays] is neither a column of the query nor one SELECT; the columns are",
        ),
        ("select ward, 1 from wards", SettingsError, "'clients' in [data.stays] yields 2 columns (ward, 1), not one"),
        (
            "select ward as w from wards",
            SettingsError,
            "'clients' in [data.stays] yields a column 'w', which the query",
        ),
        ("select null as ward", ColumnError, "column 'ward' has NULLs, which are no client's key; add `where ward is"),
        ("select x from wards", SourceError, "no such column: x"),
    ],
)
def test_invalid_clients_setting_is_a_one_line_error(stays, clients, error, said):
    assert said in line(error, stays(clients=clients).describe)


def test_row_without_a_key_belongs_to_no_client(stays):
    source = stays("select nullif(ward, 'b') as ward, days from stays", clients="select 'a' as ward")
    assert source.describe().clients == 1
    assert "column 'ward' has 2 NULLs among 3 values" in line(ColumnError, source.read, ["days"])
    alone = stays("select ward from stays", clients="ward")
    assert "'clients' in [data.stays] takes 'ward', the only column of the query" in line(SettingsError, alone.describe)


def test_unknown_column_is_an_error(stays):
    assert "column 'x' does not exist; available: ward, days, weight" in line(ColumnError, stays().read, ["x"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": None}, "[data.stays] has neither of 'url' and 'url_file'; give one of them"),
        ({"url_file": "url"}, "[data.stays] has both of 'url' and 'url_file'"),
        ({"url": "sqlite:///none.db"}, "none.db does not exist; correct it"),
        ({"url": "me:secret@host/stays"}, "the database's URL in [data.stays] is malformed; write it as SQLAlchemy"),
        ({"url": "postgresql://me:secret@host:secret/x"}, "the database's URL in [data.stays] is malformed"),
        ({"url": "postgres://me:secret@host/x"}, "in [data.stays] begins with 'postgres', which is not an installed"),
        (
            {"url": "mysql+pymysql://me:secret@host/x"},
            "in [data.stays] needs the driver pymysql, which is not installed",
        ),
        ({"url": "sqlite+aiosqlite:///stays.db"}, "aiosqlite"),
        ({"batch_rows": 0}, "'batch_rows' in [data.stays]: expected int >= 1; it is a number from 1 to 1000000"),
        (
            {"types": {"dayz": "int32"}},
            "'types' in [data.stays]: the source has no column 'dayz'; did you mean 'days'?",
        ),
        ({"qurey": "select 1"}, "unknown key 'qurey' in [data.stays]; did you mean 'query'?"),
    ],
)
def test_wrong_options_are_one_line(stays, options, said):
    told = line(SettingsError, lambda: stays(**options).describe())
    assert said in told
    assert "secret" not in told


def test_url_is_read_from_a_file_or_credential_and_never_shown(stays, tmp_path, monkeypatch):
    (tmp_path / "url").write_text("sqlite:///stays.db\n")
    options = {"url_file": "url", "query": "select days from stays"}
    assert open_source("stays", "sql", options, tmp_path).count() == 3
    (tmp_path / "credentials").mkdir()
    (tmp_path / "url").rename(tmp_path / "credentials" / "database")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    source = open_source("stays", "sql", options | {"url_file": "database"}, tmp_path)
    assert source.count() == 3
    assert "stays.db" not in repr(source._options) + repr(source._database)


def test_read_can_be_interrupted_and_the_next_one_succeeds(stays):
    source = stays(f"{ENDLESS} select i from t where i < 0 limit 1", types={"i": "int64"})
    errors = []

    def read():
        try:
            source.read(["i"])
        except SourceError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: _threads(), 5)
    source.interrupt()
    reader.join(5)
    assert errors == ["[FB4203] source 'stays': reading was interrupted"]
    wait_until(lambda: not _threads(), 5)
    source.close()
    assert "it is closed" in line(SourceError, source.describe)


def _threads():
    return [one for one in threading.enumerate() if one.name == "source stays"]


def test_error_names_columns_with_nulls_in_different_batches(stays):
    query = "select 1 as a, 2 as b, 3 as c union all select null, 4, 5 union all select 6, null, 7"
    source = stays(query, batch_rows=1, types={"a": "int64", "b": "int64", "c": "int64"})
    said = line(ColumnError, source.read, ["a", "b", "c"])
    assert "column 'a' has a NULL in row 2; column 'b' has a NULL in row 3; add" in said
    assert values(source, "c") == {"c": [3, 5, 7]}
