"""Data sources: the registry, and duckdb over real files."""

from __future__ import annotations

import threading
import time

import duckdb
import numpy as np
import pytest
from fedbroker_worker.errors import ColumnError, SettingsError, SourceError, UnknownSource
from fedbroker_worker.sources import DataSource, open_source
from fedbroker_worker.sources.protocol import GROUP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbroker.errors import FedbrokerError
from fedbroker.wire.messages import Column

CSV = "x,label,when\n1.5,a,2013-01-01\n2.5,b,2013-01-03\n"


@pytest.fixture
def files(tmp_path):
    """Write one table as a file of each kind."""
    (tmp_path / "t.csv").write_text(CSV)
    with duckdb.connect() as database:
        database.execute(f"create table t as from read_csv('{tmp_path / 't.csv'}')")
        database.execute(f"copy t to '{tmp_path / 't.parquet'}'")
        database.execute(f"copy t to '{tmp_path / 't.json'}'")
        database.execute(f"copy t to '{tmp_path / 't.csv.gz'}' (format csv)")
    with duckdb.connect(str(tmp_path / "t.duckdb")) as database:
        database.execute(f"create table t as from read_csv('{tmp_path / 't.csv'}')")
    return tmp_path


def source(options, directory):
    return open_source("flights", "duckdb", options, directory)


def query(sql, directory):
    return source({"query": sql}, directory)


def rows(opened, columns):
    """Return the columns of a source with one client."""
    (only,) = opened.read(columns)
    return only


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.json", "t.csv.gz"])
@pytest.mark.parametrize("how", ["query", "file"])
def test_files_of_each_kind_are_read(files, name, how):
    options = {"file": name} if how == "file" else {"query": f"select * from '{name}' -- all of it"}
    opened = source(options, files)
    assert isinstance(opened, DataSource)
    described = opened.describe()
    assert described.columns == (Column("x", "float64"), Column("label", "str"), Column("when", "int32"))
    assert described.clients == 1
    assert opened.count() == 2
    read = rows(opened, ["label", "x", "label", "when"])
    np.testing.assert_array_equal(read["x"], np.array([1.5, 2.5]))
    assert read["label"].tolist() == ["a", "b"]
    assert read["when"].tolist() == [15706, 15708]
    assert read["x"].dtype == np.float64
    assert not any(isinstance(array, np.ma.MaskedArray) for array in read.values())
    opened.close()


def test_several_files_and_subdirectories(files):
    (files / "more").mkdir()
    for part in (1, 2):
        (files / "more" / f"part-{part}.csv").write_text(f"x\n{part}\n")
    assert rows(source({"file": "more/part-*.csv"}, files), ["x"])["x"].tolist() == [1, 2]
    assert rows(query("select x from 'more/part-2.csv'", files), ["x"])["x"].tolist() == [2]


def test_a_database_file_is_read(files):
    opened = source({"query": "select x from t order by x desc", "database": "t.duckdb"}, files)
    assert rows(opened, ["x"])["x"].tolist() == [2.5, 1.5]
    with duckdb.connect(str(files / "t.duckdb")) as database:  # no process locks it
        database.execute("insert into t values (3.5, 'c', date '2013-01-05')")
    assert opened.count() == 3


def test_every_sql_type_is_mapped(tmp_path):
    sql = """
        select true as a, 1::tinyint as b, 2::smallint as c, 3::integer as d, 4::bigint as e, 5::utinyint as f,
               6::usmallint as g, 7::uinteger as h, 8::ubigint as i, 1.5::float as j, 2.5::double as k, 'é' as l,
               170::hugeint as m, 1.25::decimal(5, 2) as n, 'u'::enum('u', 'v') as o,
               '00000000-0000-0000-0000-000000000001'::uuid as p, 'b\\x00'::blob as q,
               timestamp '1970-01-01 00:00:01' as r, timestamptz '1970-01-01 00:00:02+00' as s,
               [1, 2, 3]::integer[3] as t, [1.5, 2.5]::decimal(4, 1)[] as u, [[1, 2], [3, 4], [5, 6]]::float[2][3] as v,
               ['x', 'y'] as w
    """
    opened = query(sql, tmp_path)
    expected = {
        "a": ("bool", (), True),
        "b": ("int8", (), 1),
        "c": ("int16", (), 2),
        "d": ("int32", (), 3),
        "e": ("int64", (), 4),
        "f": ("uint8", (), 5),
        "g": ("uint16", (), 6),
        "h": ("uint32", (), 7),
        "i": ("uint64", (), 8),
        "j": ("float32", (), 1.5),
        "k": ("float64", (), 2.5),
        "l": ("str", (), "é"),
        "m": ("int64", (), 170),
        "n": ("float64", (), 1.25),
        "o": ("str", (), "u"),
        "p": ("str", (), "00000000-0000-0000-0000-000000000001"),
        "q": ("str", (), b"b\x00"),
        "r": ("int64", (), 1_000_000),
        "s": ("int64", (), 2_000_000),
        "t": ("int32", (3,), [1, 2, 3]),
        "u": ("float64", (None,), [1.5, 2.5]),
        "v": ("float32", (3, 2), [[1, 2], [3, 4], [5, 6]]),
        "w": ("str", (None,), ["x", "y"]),
    }
    assert {c.name: (c.dtype, c.shape) for c in opened.describe().columns} == {
        name: (dtype, shape) for name, (dtype, shape, _) in expected.items()
    }
    for name, array in rows(opened, list(expected)).items():
        dtype, _shape, value = expected[name]
        assert array.tolist() == [value]
        assert array.dtype == (object if dtype == "str" else dtype)
        assert array.shape == (1, *np.shape(value))


def test_no_rows_are_arrays_of_their_shape(tmp_path):
    sql = "select 1::int as a, [1, 2]::float[2] as b, ['x'] as c where false"
    read = rows(query(sql, tmp_path), ["a", "b", "c"])
    assert {name: (array.shape, array.dtype.name) for name, array in read.items()} == {
        "a": ((0,), "int32"),
        "b": ((0, 2), "float32"),
        "c": ((0, 0), "object"),
    }


@pytest.mark.parametrize("length", [1, 2, 32, 33, 100])
@pytest.mark.parametrize("type_", ["float", "bigint", "boolean", "decimal(9, 2)", "varchar"])
def test_vectors_of_any_length(tmp_path, length, type_):
    read = query(
        f"select list_transform(range({length}), lambda k: k + i)::{type_}[{length}] as v, i from range(5) t(i)",
        tmp_path,
    )
    vectors = rows(read, ["v", "i"])
    expected = np.arange(length)[None, :] + np.arange(5)[:, None]
    expected = expected.astype(str).astype(object) if type_ == "varchar" else expected.astype(vectors["v"].dtype)
    np.testing.assert_array_equal(vectors["v"], expected)
    assert vectors["v"].shape == (5, length)
    assert vectors["i"].tolist() == list(range(5))


def test_the_order_of_the_query_is_kept(tmp_path):
    opened = query("select i from range(100000) t(i) order by hash(i)", tmp_path)
    read, again = (rows(opened, ["i"])["i"] for _ in range(2))
    np.testing.assert_array_equal(read, again)
    assert sorted(read[:10]) != list(range(10))


def test_vectors_of_many_rows_stay_aligned_with_scalars(tmp_path):
    long = ", ".join(f"i + {at}" for at in range(40))
    opened = query(
        f"select i, [i, -i] as list, [i::float, 2] ::float[2] as short, [{long}] as long, [i::text] as words"
        " from range(200_000) t(i)",
        tmp_path,
    )
    opened.describe()
    read = rows(opened, ["long", "i", "words", "short", "list"])
    i = read["i"]
    assert np.array_equal(i, np.arange(200_000))
    assert np.array_equal(read["list"], np.stack([i, -i], axis=1))
    assert np.array_equal(read["short"], np.stack([i, np.full_like(i, 2)], axis=1))
    assert np.array_equal(read["long"], i[:, None] + np.arange(40))
    assert read["words"].shape == (200_000, 1)
    assert read["words"][:3].tolist() == [["0"], ["1"], ["2"]]


def test_vectors_of_a_database_file_are_read(tmp_path):
    with duckdb.connect(str(tmp_path / "v.duckdb")) as database:
        database.execute("create table v as select [i, i + 1] as v from range(3) t(i)")
    opened = source({"query": "select v from v", "database": "v.duckdb"}, tmp_path)
    opened.describe()
    assert rows(opened, ["v"])["v"].tolist() == [[0, 1], [1, 2], [2, 3]]
    with duckdb.connect(str(tmp_path / "v.duckdb")) as database:  # not locked
        database.execute("insert into v values ([7, 8])")
    assert len(rows(opened, ["v"])["v"]) == 4


def test_changed_file_is_read_in_its_present_state(tmp_path):
    opened = query("select i, v from 'changing.parquet'", tmp_path)
    for many in (3, 5):
        with duckdb.connect() as database:
            sql = f"copy (select i, [i] as v from range({many}) t(i)) to '{tmp_path / 'changing.parquet'}'"
            database.execute(sql)
        opened.describe()
        read = rows(opened, ["i", "v"])
        assert read["i"].tolist() == read["v"][:, 0].tolist() == list(range(many))
        assert opened.count() == many


def test_quotes_in_names_are_kept(tmp_path):
    (tmp_path / "it's.csv").write_text('"a ""b"" c"\n1\n')
    opened = source({"file": "it's.csv"}, tmp_path)
    assert rows(opened, ['a "b" c'])['a "b" c'].tolist() == [1]


def test_two_columns_of_one_name_are_distinguished(tmp_path):
    names = [column.name for column in query("select 1 as x, 2 as x", tmp_path).describe().columns]
    assert names == ["x", "x_1"]


@pytest.mark.parametrize(
    ("sql", "error", "line"),
    [
        ("selec 1", SettingsError, "'query' in [data.flights]: Parser Error: syntax error at or near \"selec\""),
        ("select 1; select 2", SettingsError, "'query' in [data.flights] is not one SELECT"),
        ("create table x (i int)", SettingsError, "'query' in [data.flights] is not one SELECT"),
        ("", SettingsError, "'query' in [data.flights] is not one SELECT"),
        ("select nope from 't.csv'", SourceError, "source 'flights': Binder Error: Referenced column \"nope\""),
        ("from 'none.csv'", SourceError, 'No files found that match the pattern "none.csv"; correct its query; files'),
        (
            "select {'a': 1} as s",
            ColumnError,
            "column 's' is of the SQL type STRUCT(a INTEGER), which is not supported",
        ),
        ("select time '10:00' as s", ColumnError, "column 's' is of the SQL type TIME, which is not supported"),
        ("select null as s", ColumnError, "column 's' is of the SQL type"),
    ],
)
def test_a_query_that_fails_is_one_line(files, sql, error, line):
    with pytest.raises(error) as caught:
        query(sql, files).describe()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        ("values (1), (null), (null)", "column 'c' has 2 NULLs among 3 values; add `where c is not null` to the query"),
        ("values ('a'), (null)", "column 'c' has 1 NULL among 2 values"),
        ("values ([1, 2]), (null)", "column 'c' has 1 NULL among 2 values; replace them in the query"),
        ("values ([1, null]), ([1, 2])", "column 'c' has 1 NULL among 4 values"),
        ("values ([1, null]::int[2]), ([1, 2])", "column 'c' has 1 NULL among 2 values"),
        ("values (null::int[2]), ([1, 2])", "column 'c' has 1 NULL among 2 values"),
        ("values (range(40)::int[40]), (null)", "column 'c' has 1 NULL among 2 values"),
        ("values ([1, 2]), ([1])", "column 'c' has rows of different lengths, from 1 to 2; pad or cut them"),
        ("values (170141183460469231731687303715884105727::hugeint)", "Conversion Error: Type INT128"),
        ("values (1), (0)", "available: c"),
    ],
)
def test_mismatched_data_are_a_one_line_error(tmp_path, sql, line):
    opened = query(f"select c from ({sql}) t(c)", tmp_path)
    with pytest.raises(SourceError) as caught:
        opened.read(["none" if line == "available: c" else "c"])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "[data.flights] has neither of 'query' and 'file'; give one of them"),
        ({"query": "select 1", "file": "t.csv"}, "[data.flights] has both of 'query' and 'file'"),
        ({"qurey": "select 1"}, "unknown key 'qurey' in [data.flights]; did you mean 'query'?"),
        ({"query": 3}, "'query' in [data.flights]: expected str | null, got int; it is an SQL query"),
        ({"query": "select 1", "threads": 0}, "'threads' in [data.flights]: expected int >= 1; it is a number"),
        ({"file": "t.xlsx"}, "'file' in [data.flights]: 't.xlsx' has none of the endings .csv, .tsv"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, options, line):
    with pytest.raises(SettingsError) as caught:
        source(options, tmp_path)
    assert line in str(caught.value)


def test_numbers_from_the_environment_are_text(tmp_path):
    assert source({"query": "select 1 as x", "threads": "1", "memory_limit": "1GB"}, tmp_path).count() == 1


def test_read_can_be_interrupted_and_the_next_one_succeeds(tmp_path):
    opened = query("select sum(a.i * b.i) as s from range(10000000) a(i), range(10000000) b(i)", tmp_path)
    errors = []

    def read():
        try:
            opened.read(["s"])
        except SourceError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    limit = time.monotonic() + 20
    while reader.is_alive() and time.monotonic() < limit:
        opened.interrupt()
        reader.join(0.05)
    assert errors == ["[FB4203] source 'flights': reading was interrupted"]
    assert opened.describe().columns[0].name == "s"


def test_close_ends_running_reads_and_is_final(tmp_path):
    opened = query("select count(*) as s from range(10000000) a, range(10000000) b", tmp_path)
    raised = []

    def count():
        try:
            opened.count()
        except SourceError as error:
            raised.append(error)

    counter = threading.Thread(target=count)
    counter.start()
    limit = time.monotonic() + 20
    while counter.is_alive() and time.monotonic() < limit:
        opened.close()
        counter.join(0.05)
    assert len(raised) == 1
    with pytest.raises(SourceError, match="it is closed"):
        opened.describe()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    rows=st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans()), min_size=1)
)
def test_numbers_from_parquet_are_unchanged(tmp_path, rows):
    with duckdb.connect() as database:
        database.execute("create table t (i bigint, f double, b boolean)")
        database.executemany("insert into t values (?, ?, ?)", rows)
        database.execute(f"copy t to '{tmp_path / 'rows.parquet'}'")
    (read,) = source({"file": "rows.parquet"}, tmp_path).read(["i", "f", "b"])
    assert list(zip(*(read[name].tolist() for name in "ifb"), strict=True)) == rows


def test_unknown_kind_error_lists_the_installed_kinds(tmp_path):
    with pytest.raises(UnknownSource) as caught:
        open_source("flights", "duckbd", {}, tmp_path)
    assert "asks for a source 'duckbd', which is not installed (installed: duckdb" in str(caught.value)
    assert "duckdb" in caught.value.installed
    assert isinstance(caught.value, FedbrokerError)


def test_third_party_kind_is_found_by_its_entry_point(tmp_path, monkeypatch):
    metadata = tmp_path / "others-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nones = others_source:Ones\nbroken = no_such_module:Thing\n")
    (tmp_path / "others_source.py").write_text(
        "class Ones:\n    def __init__(self, name, options, directory):\n        self.rows = options['rows']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert open_source("d", "ones", {"rows": 3}, tmp_path).rows == 3
    with pytest.raises(SettingsError, match=r"\[data\.d\]: the source 'broken' cannot be loaded: No module named"):
        open_source("d", "broken", {}, tmp_path)
    with pytest.raises(UnknownSource, match="installed: broken, duckdb, ones"):
        open_source("d", "twos", {}, tmp_path)
