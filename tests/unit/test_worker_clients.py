"""Several clients in one source of duckdb: the clients, and the rows of each."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from fedbroker_worker.errors import ColumnError, SettingsError, SourceError
from fedbroker_worker.sources import open_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbroker.wire.messages import Column, Source

STAYS = "select * from (values ('b', 1), ('a', 2), ('b', 3), ('c', 4), ('a', 5)) t(hospital, days)"


def source(directory, clients, sql=STAYS, **options):
    return open_source("stays", "duckdb", {"query": sql, "clients": clients} | options, directory)


def lists(read, column="days"):
    """Return a column of each client as lists."""
    return [columns[column].tolist() for columns in read]


def refused(error, function, *arguments):
    """Return the line of an error."""
    with pytest.raises(error) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clients_are_distinguished_by_a_column(tmp_path):
    opened = source(tmp_path, "hospital")
    assert opened.describe() == Source((Column("days", "int32"),), clients=3)
    assert opened.count() == 5
    read = opened.read(["days"])
    assert lists(read) == [[2, 5], [1, 3], [4]]
    assert all(set(columns) == {"days"} and columns["days"].dtype == np.int32 for columns in read)


def test_query_of_keys_includes_clients_without_rows(tmp_path):
    (tmp_path / "hospitals.csv").write_text("hospital,city\nd,x\nc,x\nb,y\na,y\na,z\n\n")
    opened = source(tmp_path, "select distinct hospital from 'hospitals.csv' where hospital is not null -- all of them")
    assert opened.describe().clients == 4
    assert lists(opened.read(["days"])) == [[2, 5], [1, 3], [4], []]


def test_a_file_has_several_clients(tmp_path):
    (tmp_path / "stays.csv").write_text("days,hospital\n1,b\n2,a\n")
    opened = open_source("stays", "duckdb", {"file": "stays.csv", "clients": "hospital"}, tmp_path)
    assert opened.describe() == Source((Column("days", "int64"),), clients=2)
    assert lists(opened.read(["days"])) == [[2], [1]]


def test_a_column_called_as_a_query_is_a_column(tmp_path):
    sql = 'select 1 as days, 2 as "select 3", 4 as "a ""b"" c"'
    assert [c.name for c in source(tmp_path, "select 3", sql).describe().columns] == ["days", 'a "b" c']
    opened = source(tmp_path, 'a "b" c', sql)
    assert opened.describe().clients == 1
    assert lists(opened.read(["select 3"]), "select 3") == [[2]]


@pytest.mark.parametrize("name", ["key", "word", "c0", "c1", "text", "t"])
def test_any_column_name_is_allowed(tmp_path, name):
    sql = f"select i % 2 as {name}, i as days, -i as c0_ from range(4) t(i)"
    assert lists(source(tmp_path, name, sql).read(["days", "c0_"])) == [[0, 2], [1, 3]]


def test_key_column_is_visible_if_selected_twice(tmp_path):
    opened = source(tmp_path, "hospital")
    line = refused(ColumnError, opened.read, ["days", "hospital"])
    assert line.endswith("column 'hospital' does not exist; available: days")
    twice = source(tmp_path, "hospital", f"select *, hospital from ({STAYS})")
    assert [column.name for column in twice.describe().columns] == ["days", "hospital_1"]
    assert lists(twice.read(["hospital_1"]), "hospital_1") == [["a", "a"], ["b", "b"], ["c"]]


@pytest.mark.parametrize(
    ("type_", "keys", "order"),
    [
        ("integer", ["10", "9", "-1", "100"], [2, 1, 0, 3]),
        ("varchar", ["10", "9", "-1", "100"], [2, 0, 3, 1]),
        ("double", ["1.5", "-2.5", "nan", "1e300"], [1, 0, 3, 2]),
        ("date", ["2013-02-01", "2013-01-31", "0999-01-01"], [2, 1, 0]),
        ("enum('z', 'y', 'x')", ["x", "z", "y"], [1, 2, 0]),
        ("time", ["10:00", "09:30"], [1, 0]),
        ("uuid", ["00000000-0000-0000-0000-00000000000b", "00000000-0000-0000-0000-00000000000a"], [1, 0]),
        ("boolean", ["true", "false"], [1, 0]),
        ("timestamptz", ["2013-01-01 00:00:00+00", "2012-01-01 00:00:00+05"], [1, 0]),
        ("struct(a int)", ["{'a': 10}", "{'a': 9}"], [1, 0]),
        ("blob", ["b", "\\x00"], [1, 0]),
    ],
)
def test_keys_of_any_type_are_sorted_as_in_duckdb(tmp_path, type_, keys, order):
    values = ", ".join(f"('{key.replace(chr(39), chr(39) * 2)}'::{type_}, {at})" for at, key in enumerate(keys))
    opened = source(tmp_path, "k", f"select * from (values {values}) t(k, days)")
    assert opened.describe().clients == len(keys)
    assert lists(opened.read(["days"])) == [[at] for at in order]


def test_keys_are_compared_as_text(tmp_path):
    sql = "select * from (values ('7', 1), ('10', 2), ('7', 3)) t(ward, days)"
    assert lists(source(tmp_path, "select unnest([10, 7, 8]) as ward", sql).read(["days"])) == [[1, 3], [], [2]]
    line = refused(SourceError, source(tmp_path, "select unnest([10.5, 7.5]) as ward", sql).read, ["days"])
    assert "3 of 3 rows are of no client" in line


def test_rows_of_zeros_of_both_signs_are_found(tmp_path):
    sql = "select * from (values ('-0.0'::double, 1), ('0.0'::double, 2), ('-0.0'::double, 3)) t(k, days)"
    assert sorted(day for days in lists(source(tmp_path, "k", sql).read(["days"])) for day in days) == [1, 2, 3]


def test_each_clients_rows_keep_the_querys_order(tmp_path):
    sql = "select i, i % 7 as k from range(50000) t(i) order by hash(i)"
    with duckdb.connect() as database:
        expected = database.execute(sql).fetchnumpy()
    for client, columns in enumerate(source(tmp_path, "k", sql).read(["i"])):
        np.testing.assert_array_equal(columns["i"], expected["i"][expected["k"] == client])


@pytest.mark.parametrize("length", [2, 40])
def test_vectors_and_text_are_divided_and_empty_ones_keep_their_shape(tmp_path, length):
    vector = f"list_transform(range({length}), lambda j: j + i)::float[{length}]"
    sql = f"""select k, {vector} as v, ['x', 'y' || i] as w, i as n
              from (values (2, 0), (1, 1), (2, 2)) t(k, i)"""
    opened = source(tmp_path, "from (values (3), (2), (1)) t(k)", sql)
    read = opened.read(["v", "w", "n"])
    assert lists(read, "n") == [[1], [0, 2], []]
    assert [columns["v"].shape for columns in read] == [(1, length), (2, length), (0, length)]
    assert all(columns["v"].dtype == np.float32 and columns["w"].dtype == object for columns in read)
    np.testing.assert_array_equal(read[1]["v"], np.arange(length)[None, :] + np.array([[0], [2]]))
    assert lists(read, "w") == [[["x", "y1"]], [["x", "y0"], ["x", "y2"]], []]


@pytest.mark.parametrize("clients", ["hospital", "select 'a' as hospital where false"])
def test_empty_key_table_has_no_clients(tmp_path, clients):
    opened = source(tmp_path, clients, f"{STAYS} where false")
    assert opened.describe() == Source((Column("days", "int32"),), clients=0)
    assert (opened.count(), opened.read(["days"])) == (0, [])


def test_data_changed_after_the_announcement_are_an_error(tmp_path):
    stays = tmp_path / "stays.csv"
    stays.write_text("hospital,days\nb,1\na,2\n")
    opened = open_source("stays", "duckdb", {"file": "stays.csv", "clients": "hospital"}, tmp_path)
    assert opened.describe().clients == 2
    stays.write_text("hospital,days\nb,3\n")
    assert lists(opened.read(["days"])) == [[], [3]]
    stays.write_text("hospital,days\nb,3\nsecret,4\n")
    line = refused(SourceError, opened.read, ["days"])
    assert "1 of 2 rows are of no client that it announced; start the silo again so that" in line
    assert "secret" not in line  # the coordinator receives this line
    stays.write_text("hospital,days\nb,3\n,4\n")
    assert "column 'hospital' has 1 NULL among 2 values" in refused(ColumnError, opened.read, ["days"])
    stays.write_text("clinic,days\nb,3\nc,4\n")
    assert "Binder Error" in refused(SourceError, opened.read, ["days"])
    stays.write_text("hospital,days\nc,5\n")
    assert opened.describe().clients == 1
    assert lists(opened.read(["days"])) == [[5]]


def test_first_read_fixes_the_clients(tmp_path):
    stays = tmp_path / "stays.csv"
    stays.write_text("hospital,days\nb,1\na,2\n")
    opened = open_source("stays", "duckdb", {"file": "stays.csv", "clients": "hospital"}, tmp_path)
    assert lists(opened.read(["days"])) == [[2], [1]]
    stays.write_text("hospital,days\nb,1\n")
    assert lists(opened.read(["days"])) == [[], [1]]


def test_rows_of_an_unlisted_client_are_a_one_line_error(tmp_path):
    opened = source(tmp_path, "select 'b' as hospital")
    assert opened.describe().clients == 1
    line = refused(SourceError, opened.read, ["days"])
    assert "source 'stays': 3 of 5 rows are of no client that it announced; add their hospital to" in line
    assert "the query of 'clients', or, if the data have changed, start the silo again so that it announces" in line


@pytest.mark.parametrize(
    ("clients", "error", "line"),
    [
        ("hospitl", SettingsError, "'clients' in [data.stays] is neither a column of the query nor one SELECT (Parser"),
        ("hospitl", SettingsError, "the columns are hospital, days"),
        ("", SettingsError, "is neither a column of the query nor one SELECT; the columns are hospital, days"),
        ("select 1; select 2", SettingsError, "is neither a column of the query nor one SELECT; the columns are"),
        ("create table x (i int)", SettingsError, "is neither a column of the query nor one SELECT; the columns are"),
        (
            "select 'a' as hospital, 1 as x",
            SettingsError,
            "yields 2 columns (hospital, x), not one; select the clients'",
        ),
        (
            "select 'a' as clinic",
            SettingsError,
            "yields a column 'clinic', which the query lacks; call it as the query",
        ),
        ("select clinic from 'none.csv'", SourceError, 'No files found that match the pattern "none.csv"'),
        ("select nope", SourceError, 'Binder Error: Referenced column "nope"'),
        ("select null as hospital", ColumnError, "column 'hospital' has NULLs, which are no client's key; add `where"),
        ("select null as hospital", ColumnError, "`where hospital is not null` to the query of 'clients', or coalesce"),
    ],
)
def test_unknown_client_columns_are_a_one_line_error(tmp_path, clients, error, line):
    assert line in refused(error, source(tmp_path, clients).describe)


def test_null_is_no_key(tmp_path):
    sql = f"{STAYS} union all select null, 6"
    line = refused(ColumnError, source(tmp_path, "hospital", sql).describe)
    assert line.endswith("add `where hospital is not null` to the query, or coalesce()")
    line = refused(ColumnError, source(tmp_path, "select unnest(['a', 'b', 'c']) as hospital", sql).read, ["days"])
    assert "column 'hospital' has 1 NULL among 6 values" in line


def test_the_only_column_cannot_be_the_key(tmp_path):
    line = refused(SettingsError, source(tmp_path, "hospital", f"select hospital from ({STAYS})").describe)
    assert "'clients' in [data.stays] takes 'hospital', the only column of the query; select what" in line


def test_number_as_clients_setting_is_refused(tmp_path):
    line = refused(SettingsError, source, tmp_path, 3)
    assert "'clients' in [data.stays]: expected str | null, got int; it is a column of the query, or an SQL" in line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    rows=st.lists(st.tuples(st.integers(-12, 12), st.integers(-(2**63), 2**63 - 1), st.text(max_size=3))),
    more=st.sets(st.integers(-15, 15)),
    listed=st.booleans(),
)
def test_every_row_belongs_to_its_client_alone_and_in_order(tmp_path, rows, more, listed):
    keys = sorted({key for key, _, _ in rows} | (more if listed else set()))
    path = tmp_path / "rows.duckdb"
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as database:
        database.execute("create table t (k integer, n bigint, s varchar); create table ks (k integer)")
        if rows:
            database.executemany("insert into t values (?, ?, ?)", rows)
        if keys:
            database.executemany("insert into ks values (?)", [[key] for key in reversed(keys)])
    opened = source(tmp_path, "select k from ks" if listed else "k", "from t", database="rows.duckdb")
    assert opened.describe().clients == len(keys)
    read = opened.read(["n", "s"])
    dealt = [list(zip(columns["n"].tolist(), columns["s"].tolist(), strict=True)) for columns in read]
    assert dealt == [[(n, s) for key, n, s in rows if key == one] for one in keys]
    assert sorted(row for client in dealt for row in client) == sorted((n, s) for _, n, s in rows)
