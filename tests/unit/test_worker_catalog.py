"""The sources of a silo in an event loop: announced, loaded, and cancelled in time."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading

import numpy as np
import pytest
from fedbroker_worker.config import SourceSettings
from fedbroker_worker.errors import ColumnError, PolicyRefused, Problem, SettingsError, SourceError, WorkRefused
from fedbroker_worker.sources.catalog import Catalog, OpenSource
from fedbroker_worker.threads import still_running

from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire import Limits
from fedbroker.wire.messages import Column, Data, Source
from tests.support.transports import eventually

QUERY = "select i::int as x, (i * 2)::double as y, [i, i]::float[2] as v from range(4) t(i)"


def tables(**queries):
    return {name: SourceSettings("duckdb", {"query": sql}) for name, sql in queries.items()}


@pytest.fixture
async def catalog(tmp_path):
    opened = Catalog(tables(flights=QUERY, one="select 7::bigint as n"), tmp_path, limits=Limits(max_blob=10_000))
    await opened.open()
    yield opened
    await opened.close()


def arrays(value):
    """Return the arrays of each member of a clients-placed struct."""
    members = executor_pb2.Value.FromString(value).federated.value
    return [[np.frombuffer(e.value.array.content, np.uint8).size for e in m.struct.element] for m in members]


async def test_sources_are_announced_while_rows_are_counted(catalog):
    assert list(catalog.announced) == ["flights", "one"]
    columns = (Column("x", "int32"), Column("y", "float64"), Column("v", "float32", (2,)))
    assert catalog.announced["flights"].columns == columns
    await eventually(lambda: catalog.announced["flights"].rows == 4)
    await eventually(lambda: catalog.announced["one"].rows == 1)


async def test_columns_are_found_by_name_and_by_position(catalog):
    by_name = await catalog.load(Data(1, "flights", (("y", "float32"), ("v", "float64"))), 1)
    by_position = await catalog.load(Data(1, "flights", (("#1", "float32"), ("#2", "float64"))), 1)
    assert by_name == by_position
    assert arrays(by_name) == [[4 * 4, 4 * 2 * 8]]


async def test_work_without_clients_needs_no_data(catalog):
    assert arrays(await catalog.load(Data(1, "flights", (("x", "int32"),)), 0)) == []


async def test_scalar_is_one_row(catalog):
    value = executor_pb2.Value.FromString(await catalog.load(Data(1, "one", (("n", "int32"),), scalar=True), 1))
    assert value.federated.value[0].struct.element[0].value.array.int32_list.value == [7]


async def opened(tmp_path, clients, sql="select * from (values (2, 20), (1, 10), (2, 21)) t(k, n)"):
    """Open a source of several clients."""
    return await OpenSource.open("several", SourceSettings("duckdb", {"query": sql, "clients": clients}), tmp_path)


def numbers(value):
    """Return the first column of each member."""
    members = executor_pb2.Value.FromString(value).federated.value
    return [np.frombuffer(m.struct.element[0].value.array.content, np.int64).tolist() for m in members]


async def test_each_client_is_a_member(tmp_path):
    several = await opened(tmp_path, "select unnest([3, 2, 1]) as k")
    assert several.announced == Source((Column("n", "int32"),), clients=3)
    assert await several.count() == 3
    assert several.announced == Source((Column("n", "int32"),), rows=3, clients=3)
    op = Data(1, "several", (("n", "int64"),))
    assert numbers(await several.load(op, 3, Limits())) == [[10], [20, 21], []]
    assert numbers(await several.load(op, 0, Limits())) == []
    with pytest.raises(WorkRefused, match="'several' has 3 clients, not 1"):
        await several.load(op, 1, Limits())
    await several.close()


async def test_scalar_is_one_row_of_each_client(tmp_path):
    op = Data(1, "several", (("n", "int32"),), scalar=True)
    one_each = await opened(
        tmp_path, "k", "select k, max(n) as n from (values (2, 20), (1, 10), (2, 21)) t(k, n) group by k"
    )
    value = executor_pb2.Value.FromString(await one_each.load(op, 2, Limits()))
    assert [m.struct.element[0].value.array.int32_list.value for m in value.federated.value] == [[10], [21]]
    await one_each.close()
    several = await opened(tmp_path, "k")
    with pytest.raises(SourceError, match="'several': client 2 of 2 has 2 rows where the computation takes one"):
        await several.load(op, 2, Limits())
    await several.close()


async def test_source_without_clients_is_announced_and_loaded(tmp_path):
    nobody = await opened(tmp_path, "k", "select 1 as k, 2 as n where false")
    assert await nobody.count() == 0
    assert nobody.announced == Source((Column("n", "int32"),), rows=0, clients=0)
    op = Data(1, "several", (("n", "int32"),))
    assert arrays(await nobody.load(op, 0, Limits())) == []
    with pytest.raises(WorkRefused, match="has 0 clients, not 1"):
        await nobody.load(op, 1, Limits())
    await nobody.close()


@pytest.mark.parametrize(
    ("op", "clients", "error", "line"),
    [
        (Data(1, "nope", ()), 1, SourceError, "no source has that name (available: flights, one)"),
        (Data(1, "flights", (("z", "int32"),)), 1, ColumnError, "column 'z' does not exist; available: x, y, v"),
        (Data(1, "flights", (("#3", "int32"),)), 1, ColumnError, "column '#3' does not exist"),
        (Data(1, "flights", (("#-1", "int32"),)), 1, ColumnError, "column '#-1' does not exist"),
        (Data(1, "flights", (("y", "int32"),)), 1, ColumnError, "is float64, requested as int32"),
        (Data(1, "flights", (("x", "int33"),)), 1, WorkRefused, "is requested as 'int33'"),
        (Data(1, "flights", (("x", "int32"),), scalar=True), 1, SourceError, "has 4 rows where the computation takes"),
        (Data(1, "flights", (("x", "int32"),)), 2, WorkRefused, "has 1 client, not 2"),
    ],
)
async def test_mismatched_columns_are_a_one_line_error(catalog, op, clients, error, line):
    with pytest.raises(error) as caught:
        await catalog.load(op, clients)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_data_above_the_blob_limit_are_refused(tmp_path):
    catalog = Catalog(tables(big="select i from range(2000) t(i)"), tmp_path, limits=Limits(max_blob=10_000))
    await catalog.open()
    with pytest.raises(SourceError, match=r"takes 160\d\d bytes, more than the limit of 10000"):
        await catalog.load(Data(1, "big", (("i", "int64"),)), 1)
    await catalog.close()


async def test_first_source_that_cannot_be_opened_is_the_error(tmp_path):
    bad = tables(good="select 1 as x", none="from 'none.csv'", nope="select nope")
    with pytest.raises(SourceError, match=r"source 'none': IO Error: No files found"):
        await Catalog(bad, tmp_path).open()
    with pytest.raises(SettingsError, match="unknown key 'qury'"):
        await Catalog({"a": SourceSettings("duckdb", {"qury": "select 1"})}, tmp_path).open()


async def test_cancelled_read_ends_and_the_next_one_succeeds(tmp_path):
    slow = "select sum(a.i * b.i)::double as s from range(100000000) a(i), range(100000000) b(i)"
    catalog = Catalog(tables(slow=slow, quick="select 1 as x"), tmp_path)
    await catalog.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await catalog.load(Data(1, "slow", (("s", "float64"),)), 1)
    await eventually(lambda: "blocking: read slow" not in names())
    assert await catalog.load(Data(1, "quick", (("x", "int32"),)), 1)
    await catalog.close()
    await eventually(lambda: not still_running())


def names():
    """Return the names of running threads."""
    return {thread.name for thread in threading.enumerate()}


class Faulty:
    """A third-party source with unexpected errors."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def describe(self) -> Source:
        return Source((Column("x", "int32"),))

    def read(self, columns):
        raise KeyError("x")

    def count(self) -> int:
        self.released.wait(10)
        raise ValueError("two\nlines")

    def interrupt(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        self.released.set()
        raise RuntimeError("no")


async def test_errors_of_third_party_sources_name_the_source():
    faulty = Faulty()
    one = OpenSource("theirs", faulty, faulty.describe())
    with pytest.raises(SourceError, match="source 'theirs': KeyError: 'x'; see the package"):
        await one.load(Data(1, "theirs", (("x", "int32"),)), 1, Limits())
    await one.close()
    with pytest.raises(SourceError, match="source 'theirs': ValueError: two lines"):
        await one.count()


class Ending(Faulty):
    """A third-party source that ends the process."""

    def count(self):
        raise SystemExit(3)

    def read(self, columns):
        sys.exit("no more")


async def test_source_that_exits_fails_immediately():
    ending = Ending()
    one = OpenSource("theirs", ending, ending.describe())
    async with asyncio.timeout(10):
        with pytest.raises(
            SourceError, match="source 'theirs': CallAborted: aborted by SystemExit: no more; see the"
        ) as no:
            await one.load(Data(1, "theirs", (("x", "int32"),)), 1, Limits())
        assert no.value.problem is Problem.UNREADABLE
        with pytest.raises(SourceError, match="aborted by SystemExit: 3"):
            await one.count()


class Changing(Faulty):
    """A third-party source whose data differ from its announcement."""

    def read(self, columns):
        return [{"x": np.ones(1, np.int32)}] * 2


async def test_announced_number_of_clients_is_read():
    changing = Changing()
    one = OpenSource("theirs", changing, changing.describe())
    with pytest.raises(SourceError, match="came as those of 2 clients where it announced 1; see the package"):
        await one.load(Data(1, "theirs", (("x", "int32"),)), 1, Limits())
    await one.close()


async def test_rows_of_a_source_that_knows_them_are_not_counted():
    one = OpenSource("theirs", Faulty(), Source((Column("x", "int32"),), rows=5))
    assert await one.count() == 5


def empty_kinds(tmp_path):
    """Return a source without rows, or without types, of each kind."""
    (tmp_path / "empty.csv").write_text("x,v\n")
    (tmp_path / "empty_module.py").write_text("def f():\n    return {'x': [], 'v': []}\n")
    sqlite3.connect(tmp_path / "empty.db").execute("create table t (x, v)").connection.close()
    return {
        "file": SourceSettings("duckdb", {"file": "empty.csv"}),
        "query": SourceSettings("duckdb", {"query": "select 'a' as x, 'b' as v where false"}),
        "sql": SourceSettings("sql", {"url": "sqlite:///empty.db", "query": "select x, v from t"}),
        "python": SourceSettings("python", {"callable": "empty_module:f"}),
    }


async def test_source_without_rows_is_announced_as_such_and_fits_any_type(tmp_path):
    settings = empty_kinds(tmp_path)
    empty = Catalog(settings, tmp_path)
    await empty.open()
    try:
        for name in settings:
            assert empty.announced[name].rows == 0
            assert [column.name for column in empty.announced[name].columns] == ["x", "v"]
            for dtype in ("float32", "int64", "bool", "str", "bfloat16"):
                op = Data(1, name, (("x", dtype), ("v", "float32[?,4]")))
                value = executor_pb2.Value.FromString(await empty.load(op, 1))
                x, v = (element.value.array for element in value.federated.value[0].struct.element)
                assert (list(x.shape.dim), list(v.shape.dim)) == ([0], [0, 0, 4])
    finally:
        await empty.close()


async def test_rows_of_another_shape_than_requested_are_an_error(catalog):
    with pytest.raises(ColumnError, match="another shape"):
        await catalog.load(Data(1, "flights", (("x", "int32[4]"),)), 1)
    with pytest.raises(WorkRefused, match="requested as 'int32\\[x\\]'"):
        await catalog.load(Data(1, "flights", (("x", "int32[x]"),)), 1)


async def test_source_with_fewer_rows_than_the_policy_demands_is_refused(tmp_path):
    demanding = Catalog(tables(four=QUERY, one="select 7::bigint as n"), tmp_path, min_rows=4)
    await demanding.open()
    try:
        assert await demanding.load(Data(1, "four", (("x", "int32"),)), 1)
        with pytest.raises(PolicyRefused, match="source 'one' has fewer rows than this silo computes over") as caught:
            await demanding.load(Data(1, "one", (("n", "int32"),)), 1)
        assert (caught.value.rule, caught.value.by_data) == ("min_rows", True)
        assert "1" not in caught.value.what
    finally:
        await demanding.close()


async def test_lone_surrogate_is_an_error_of_its_column(tmp_path):
    (tmp_path / "surrogate_module.py").write_text("def f():\n    return {'t': ['a', chr(0xD800) + 'secret']}\n")
    source = Catalog({"texts": SourceSettings("python", {"callable": "surrogate_module:f"})}, tmp_path)
    await source.open()
    try:
        with pytest.raises(ColumnError, match="column 't' holds text that is not valid Unicode") as caught:
            await source.load(Data(1, "texts", (("t", "str"),)), 1)
        assert caught.value.problem is Problem.NOT_UNICODE
        assert "secret" not in str(caught.value)
    finally:
        await source.close()


async def columns_of_error(catalog, *columns, clients=1):
    """Return the columns that the error of a read names."""
    with pytest.raises(ColumnError) as caught:
        await catalog.load(Data(1, "rows", columns), clients)
    assert all(str(caught.value).count(f"column {part.column!r}") == 1 for part in caught.value.parts)
    return [part.column for part in caught.value.parts]


async def test_error_of_a_read_names_all_columns(tmp_path):
    """Read NULLs in a plain column, in vectors of one length and of any, next to columns that fit."""
    query = (
        "select if(i > 0, i, null) as a, i as b, [i, if(i > 1, i, null)]::int[2] as c,"
        " if(i > 2, [i], null)::int[] as d, [i, i]::int[2] as e, i as f from range(4) t(i)"
    )
    catalog = Catalog(tables(rows=query), tmp_path)
    await catalog.open()
    asked = [(name, "int32") for name in "abcdef"]
    assert await columns_of_error(catalog, *asked) == ["a", "c", "d"]
    assert await columns_of_error(catalog, ("b", "int32"), ("y", "int32"), ("z", "int32")) == ["y", "z"]
    assert await catalog.load(Data(1, "rows", (("b", "int32"), ("e", "int32"))), 1)
    await catalog.close()


async def test_error_of_a_conversion_names_the_columns_of_all_clients(tmp_path):
    query = "select * from (values ('p', 300, 1, 2), ('q', 1, 300, 2), ('r', 301, 1, 2)) t(k, x, y, z)"
    catalog = Catalog({"rows": SourceSettings("duckdb", {"query": query, "clients": "k"})}, tmp_path)
    await catalog.open()
    asked = [(name, "int8") for name in "xyz"]
    assert await columns_of_error(catalog, *asked, clients=3) == ["x", "y"]
    await catalog.close()
