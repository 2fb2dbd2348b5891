"""The source ``sql`` on a real PostgreSQL: types, errors, cancellation, passwords."""

from __future__ import annotations

import threading
from urllib.parse import parse_qs, urlsplit

import numpy as np
import psycopg2
import pytest
from fedbroker_worker.config import SourceSettings
from fedbroker_worker.errors import ColumnError, SourceError
from fedbroker_worker.sources import open_source
from fedbroker_worker.sources.catalog import OpenSource

from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Column, Data, Source
from tests.support.postgres import postgres
from tests.support.wait import wait_until

PASSWORD = "a secret/@"
ROWS = """
    create table stays (ward text, days int, weight numeric(5, 2), urgent boolean, admitted date, seen timestamptz,
                        id uuid, note bytea, curve real[], grid int[][]);
    insert into stays values
        ('b', 3, 1.25, true, '2013-01-01', '1970-01-01 00:00:01.5+00', '00000000-0000-0000-0000-00000000000a',
         '\\x00ff', '{1, 2.5}', '{{1, 2}, {3, 4}}'),
        ('a', 1, 2.5, false, '1969-12-31', '1970-01-01 02:00:00+02', '00000000-0000-0000-0000-00000000000b',
         '\\x61', '{3, 4}', '{{5, 6}, {7, 8}}');
"""


@pytest.fixture(scope="module")
def server():
    with postgres() as url:
        run(url, ROWS)
        run(url, f"create role alice login password '{PASSWORD}'; grant select on stays to alice")
        (((hba,),)) = run(url, "show hba_file")
        with open(hba) as file:
            rules = file.read()
        with open(hba, "w") as file:
            file.write("local all alice scram-sha-256\n" + rules)
        run(url, "select pg_reload_conf()")
        yield url


def run(url, sql):
    """Return the rows of a statement, read by the driver itself."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def source(url, tmp_path, query="select * from stays", **options):
    return open_source("stays", "sql", {"url": by_psycopg2(url), "query": query} | options, tmp_path)


def by_psycopg2(url):
    return url.replace("postgresql:", "postgresql+psycopg2:")


def line(error, function, *arguments):
    """Return the line of an error."""
    with pytest.raises(error) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_type_is_mapped(server, tmp_path):
    opened = source(server, tmp_path)
    expected = {
        "ward": ("str", (), ["b", "a"]),
        "days": ("int64", (), [3, 1]),
        "weight": ("float64", (), [1.25, 2.5]),
        "urgent": ("bool", (), [True, False]),
        "admitted": ("int32", (), [15706, -1]),
        "seen": ("int64", (), [1_500_000, 0]),
        "id": ("str", (), ["00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"]),
        "note": ("str", (), [b"\x00\xff", b"a"]),
        "curve": ("float64", (None,), [[1, 2.5], [3, 4]]),
        "grid": ("int64", (None, None), [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]),
    }
    columns = tuple(Column(name, dtype, shape) for name, (dtype, shape, _) in expected.items())
    assert opened.describe() == Source(columns, rows=2)
    (rows,) = opened.read(list(expected))
    assert {name: array.tolist() for name, array in rows.items()} == {
        name: value for name, (_, _, value) in expected.items()
    }


def test_vectors_have_the_configured_length(server, tmp_path):
    opened = source(server, tmp_path, types={"curve": "float32[2]", "grid": "int8[2][2]"}, batch_rows=1)
    by_name = {column.name: column for column in opened.describe().columns}
    assert (by_name["curve"], by_name["grid"]) == (Column("curve", "float32", (2,)), Column("grid", "int8", (2, 2)))
    (rows,) = opened.read(["curve", "grid"])
    assert (rows["curve"].dtype.name, rows["grid"].shape) == ("float32", (2, 2, 2))
    three = source(server, tmp_path, types={"curve": "float32[3]"})
    assert "column 'curve' has a row of length 2 where each has 3; pad or" in line(ColumnError, three.read, ["curve"])
    ragged = source(server, tmp_path, "select array_fill(1, array[i]) as v from generate_series(1, 2) t(i)")
    assert "column 'v' has rows of different lengths, from 1 to 2" in line(ColumnError, ragged.read, ["v"])
    apart = source(
        server, tmp_path, "select array_fill(1, array[i]) as v from generate_series(1, 2) t(i)", batch_rows=1
    )
    assert "column 'v' has rows of different lengths; pad or cut" in line(ColumnError, apart.read, ["v"])
    nested = source(server, tmp_path, "select array[1, null] as v")
    assert "column 'v' has a NULL in row 1; replace it, or leave it out" in line(ColumnError, nested.read, ["v"])


def test_rows_are_streamed_and_keep_their_order(server, tmp_path):
    query = "select i, 'ward ' || i % 7 as ward, i::float8 / 2 as half from generate_series(1, 50000) t(i) order by -i"
    opened = source(server, tmp_path, query, clients="ward", batch_rows=999)
    assert opened.describe() == Source((Column("i", "int64"), Column("half", "float64")), clients=7)
    assert opened.count() == 50_000
    for ward, rows in enumerate(opened.read(["half", "i"])):
        expected = np.arange(50_000, 0, -1)
        expected = expected[expected % 7 == ward]
        np.testing.assert_array_equal(rows["i"], expected)
        np.testing.assert_array_equal(rows["half"], expected / 2)
    endless = "with recursive t(i) as (select 1 union all select i + 1 from t) select i from t where i % 2 = 0"
    assert source(server, tmp_path, endless, batch_rows=10).describe().columns == (Column("i", "int64"),)


def test_keys_are_compared_as_text_and_sorted_by_size(server, tmp_path):
    query = "select * from (values ('10', 1), ('9', 2), ('10', 3)) t(ward, days)"
    opened = source(server, tmp_path, query, clients="select * from unnest(array[10, 7, 9]) as ward")
    assert [rows["days"].tolist() for rows in opened.read(["days"])] == [[], [2], [1, 3]]


@pytest.mark.parametrize("query", ["select i % 0 as x from generate_series(1, 3) t(i)", "select * from nothing"])
def test_database_errors_are_one_line(server, tmp_path, query):
    said = line(SourceError, source(server, tmp_path, query).describe)
    assert "division by zero; correct its query" in said or 'relation "nothing" does not exist; correct its' in said


def test_source_is_read_only(server, tmp_path):
    writing = "with w as (insert into stays (ward) values ('z') returning ward) select ward from w"
    said = line(SourceError, source(server, tmp_path, writing).describe)
    assert "cannot execute INSERT in a read-only transaction" in said or "must not contain data-modifying" in said
    assert run(server, "select count(*) from stays where ward = 'z'") == [(0,)]


def test_password_is_used_and_never_shown(server, tmp_path):
    host = parse_qs(urlsplit(server).query)["host"][0]
    quoted = PASSWORD.replace("@", "%40").replace("/", "%2F").replace(" ", "%20")
    good = source(f"postgresql://alice:{quoted}@/postgres?host={host}", tmp_path)
    assert good.count() == 2
    assert PASSWORD not in repr(good._database) + repr(good._options)
    bad = source(f"postgresql://alice:not%20{quoted}@/postgres?host={host}", tmp_path)
    said = line(SourceError, bad.describe)
    assert 'password authentication failed for user "alice"; correct its query or its url' in said
    assert "secret" not in said
    named = source(f"postgresql://alice:ward@/postgres?host={host}", tmp_path, "select ward from stays")
    assert "ward" not in line(SourceError, named.describe)


def test_unreachable_server_is_an_error(tmp_path):
    said = line(SourceError, source("postgresql://me:secret@127.0.0.1:1/x", tmp_path).describe)
    assert "Connection refused" in said
    assert "secret" not in said


def test_an_interrupted_read_is_cancelled_at_the_server(server, tmp_path):
    opened = source(server, tmp_path, "select pg_sleep(600)::text as slept", types={"slept": "str"})
    opened._typed = opened._given  # so that describing does not sleep
    errors = []

    def read():
        try:
            opened.read(["slept"])
        except SourceError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    active = "select pid from pg_stat_activity where wait_event = 'PgSleep'"
    wait_until(lambda: run(server, active), 10)
    opened.interrupt()
    reader.join(5)
    assert errors == ["[FB4203] source 'stays': reading was interrupted"]
    wait_until(lambda: not run(server, active), 10)


async def test_silo_sends_the_columns(server, tmp_path):
    settings = SourceSettings(
        "sql", {"url": by_psycopg2(server), "query": "select ward, days from stays", "clients": "ward"}
    )
    opened = await OpenSource.open("stays", settings, tmp_path)
    assert opened.announced == Source((Column("days", "int64"),), rows=2, clients=2)
    assert await opened.load(Data(1, "stays", (("days", "float32"),)), 2, Limits())
    await opened.close()
