"""Sources of every kind whose data, files, settings and errors hold a mark, and which fail on command.

A mark that is found anywhere outside of the silo was leaked.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import psycopg2
from fedbroker_worker.errors import Problem
from fedbroker_worker.sources.protocol import GROUP

from examples.sheets.server import Answer, Book, SheetsServer

__all__ = ["MARK", "NUMBER", "Case", "duckdb_cases", "installed_cases", "postgres_cases", "python_cases",
           "sheets_cases", "sqlite_cases"]  # fmt: skip

MARK = "s3cr3t"
NUMBER = "987654321"
"""A cell for places that accept only numbers; no other number in a message resembles it."""

X = (("x", "float64"),)


def nothing() -> None:
    """Change nothing: the fault exists from the start."""


@dataclass(frozen=True)
class Case:
    """A source that can be opened, and then fails.

    Attributes:
        source: its name.
        options: the keys of its table.
        problem: the problem that the coordinator is told.
        tells: a text that must be in the silo's own log; empty if the log's text holds nothing secret.
        spoil: called after the silo has joined its cohort.
        asked: columns and dtypes.
        clients: how many the source announces.
        scalar: ask for one row.
    """

    source: str
    options: dict[str, object]
    problem: Problem
    tells: str = MARK
    spoil: Callable[[], object] = nothing
    asked: Sequence[tuple[str, str]] = X
    clients: int = 1
    scalar: bool = False


def duckdb_cases(at: Path) -> list[Case]:
    """Return cases of CSV, Parquet, JSON and a database, read by duckdb."""

    def csv(name: str, text: str) -> Path:
        path = at / f"{MARK}_{name}.csv"
        path.write_text(text)
        return path

    def query(name: str, select: str, columns: str = "'x': 'DOUBLE'") -> dict[str, object]:
        options = f"header = true, nullstr = '{MARK}_null', columns = {{{columns}}}"
        return {"query": f"select {select} from read_csv('{MARK}_{name}.csv', {options}) -- {MARK}_comment"}

    def appends(path: Path, line: str) -> Callable[[], object]:
        return lambda: path.write_text(path.read_text() + line)

    def now(select: str) -> dict[str, object]:
        return {"query": f"select {select} -- {MARK}_comment"}

    cell = csv("cell", f"x,{MARK}_ssn\n1,a\n")
    gone = csv("gone", "x\n1\n")
    cast = csv("cast", "t\n1\n")
    words = csv("words", "x\n1\n")
    columns = csv("columns", "x\n1.5\n")
    null = csv("null", "x,y\n1,1\n")
    wards = csv("wards", f"x,{MARK}_ward\n1,a\n2,b\n")
    nobody = csv("nobody", f"x,{MARK}_ward\n1,a\n")
    parquet, lines, database = at / f"{MARK}.parquet", at / f"{MARK}.jsonl", at / f"{MARK}.duckdb"
    duckdb.sql("select 1.0::double as x").write_parquet(str(parquet))
    lines.write_text('{"x": 1.5}\n')
    with duckdb.connect(str(database)) as made:
        made.execute(f"create table {MARK}_table as select 1.0::double as x")
    keys = f"select distinct {MARK}_ward from read_csv('{MARK}_wards.csv', nullstr = '{MARK}_null') where x < 3"
    ward = f"'x': 'DOUBLE', '{MARK}_ward': 'VARCHAR'"
    read = Problem.UNREADABLE
    return [
        Case("a_bad_cell", query("cell", "x", f"'x': 'DOUBLE', '{MARK}_ssn': 'VARCHAR'"), read,
             spoil=appends(cell, f"{MARK}_cell,{MARK}_row\n")),
        Case("no_file", {"file": gone.name}, read, spoil=gone.unlink),
        Case("no_parquet", {"file": parquet.name}, read, spoil=lambda: parquet.write_bytes(MARK.encode() * 9)),
        Case("no_json", {"file": lines.name}, read, spoil=appends(lines, f'{{"x": {MARK}_json\n')),
        Case("no_database", {"query": f"from {MARK}_table", "database": database.name}, read, spoil=database.unlink),
        Case("a_cast", query("cast", "cast(t as double) as x", "'t': 'VARCHAR'"), read,
             spoil=appends(cast, f"{MARK}_cell\n")),
        Case("own_words", query("words", f"if(x > 1, error('{MARK}_words')::double, x) as x"), read,
             spoil=appends(words, "2\n")),
        Case("other_columns", {"query": f"from read_csv('{MARK}_columns.csv')"}, Problem.UNKNOWN_COLUMN,
             spoil=lambda: columns.write_text(f"{MARK}_new\n1\n")),
        Case("asked_wrong", now("1.5::double as x"), Problem.UNKNOWN_COLUMN, "", asked=[("nope", "float64")]),
        Case("a_null", query("null", "x", "'x': 'DOUBLE', 'y': 'DOUBLE'"), Problem.NO_VALUE, "",
             spoil=appends(null, f"{MARK}_null,2\n")),
        Case("ragged", {"query": "select unnest([[1.0::double], [1.0, 2.0]]) as x"}, Problem.RAGGED, ""),
        Case("narrow", now(f"{NUMBER} as x"), Problem.OUT_OF_RANGE, NUMBER, asked=[("x", "int8")]),
        Case("negative", now(f"-{NUMBER} as x"), Problem.OUT_OF_RANGE, NUMBER, asked=[("x", "int16")]),
        Case("half", now(f"{NUMBER}e9::double as x"), Problem.OUT_OF_RANGE, "", asked=[("x", "float16")]),
        Case("brain", now("3.4e38::double as x"), Problem.OUT_OF_RANGE, "", asked=[("x", "bfloat16")]),
        Case("text", now(f"'{MARK}_cell' as x"), Problem.NOT_CONVERTIBLE, ""),
        Case("number", now(f"{NUMBER} as x"), Problem.NOT_CONVERTIBLE, "", asked=[("x", "str")]),
        Case("fraction", now(f"{NUMBER}.5::double as x"), Problem.NOT_CONVERTIBLE, "", asked=[("x", "int64")]),
        Case("rows", now(f"unnest([{NUMBER}, 2]) as x"), Problem.NOT_ONE_ROW, "", asked=[("x", "int64")], scalar=True),
        Case("strangers", query("wards", "*", ward) | {"clients": keys}, Problem.OTHER_CLIENTS, clients=2,
             spoil=appends(wards, f"3,{MARK}_key\n")),
        Case("nobodys", query("nobody", "*", ward) | {"clients": f"{MARK}_ward"}, Problem.NO_VALUE,
             spoil=appends(nobody, f"2,{MARK}_null\n")),
    ]  # fmt: skip


def sqlite_cases(at: Path) -> list[Case]:
    """Return cases of SQLite tables."""

    def run(name: str, *statements: str) -> None:
        connection = sqlite3.connect(at / f"{MARK}_{name}.db")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def case(name: str, problem: Problem, tells: str, *spoiled: str, **options: object) -> Case:
        run(name, f"create table {MARK}_table (x, {MARK}_ward)", f"insert into {MARK}_table values (1.5, 'a')")
        chosen = "x" if "clients" not in options else "*"
        table = {"source": "sql", "url": f"sqlite:///{MARK}_{name}.db", "query": f"select {chosen} from {MARK}_table"}
        return Case(f"sqlite_{name}", table | options, problem, tells, lambda: run(name, *spoiled))

    update = f"update {MARK}_table set"
    again = f"insert into {MARK}_table values"
    return [
        case("gone", Problem.UNREADABLE, MARK, f"drop table {MARK}_table"),
        case("cell", Problem.MISFIT, "", f"{update} x = '{MARK}_cell'"),
        case("null", Problem.NO_VALUE, "", f"{update} x = null"),
        case("narrow", Problem.OUT_OF_RANGE, NUMBER, f"{update} x = {NUMBER}", types={"x": "uint8"}),
        case("changed", Problem.CHANGED, "", f"drop table {MARK}_table", f"create table {MARK}_table ({MARK}_y)",
             f"insert into {MARK}_table values (1)",
             types={"x": "float64"}, clients=f"{MARK}_ward"),
        case("stranger", Problem.OTHER_CLIENTS, "", f"{again} (2.5, '{MARK}_key')", clients=f"{MARK}_ward"),
        case("nobody", Problem.NO_VALUE, MARK, f"{again} (2.5, null)", clients=f"{MARK}_ward"),
    ]  # fmt: skip


def postgres_cases(url: str) -> list[Case]:
    """Return cases of tables in a real PostgreSQL, as a role with a marked name and password."""

    def run(*statements: str) -> None:
        connection = psycopg2.connect(url)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def login(role: str) -> str:
        run(f"create role {role} login superuser")
        return f"postgresql+psycopg2://{role}:{MARK}_password@/postgres?{urlsplit(url).query}"

    one = login(f"{MARK}_user")
    run(
        f"create table {MARK}_table (t text, v float8[])",
        f"insert into {MARK}_table values ('1', '{{1, 2}}')",
        f"create function {MARK}_check(t text) returns float8 language plpgsql as "
        f"$$ begin if t = '1' then return 1; end if; raise exception '{MARK}_words %', t; end $$",
    )
    other = login(f"{MARK}_other")
    spoil = f"insert into {MARK}_table values ('{MARK}_cell', '{{1}}')"

    def case(name: str, problem: Problem, tells: str, query: str, how: Callable[[], None], by: str = one) -> Case:
        return Case(f"postgres_{name}", {"source": "sql", "url": by, "query": query}, problem, tells, how)

    return [
        case("cast", Problem.UNREADABLE, MARK, f"select t::float8 as x from {MARK}_table", lambda: run(spoil)),
        case("words", Problem.UNREADABLE, MARK, f"select {MARK}_check(t) as x from {MARK}_table", nothing),
        case("ragged", Problem.RAGGED, "", f"select v as x from {MARK}_table", nothing),
        case("login", Problem.UNREADABLE, MARK, "select 1.5::float8 as x", lambda: run(f"drop role {MARK}_other"),
             other),
    ]  # fmt: skip


def sheets_cases(at: Path, server: SheetsServer, away: SheetsServer) -> list[Case]:
    """Return cases of spreadsheets on a stand-in for Google; ``away`` is stopped in one of them."""
    email = server.save_account(MARK, at / f"{MARK}_account.json")

    def rows(name: str) -> list[list[object]]:
        return server.books[f"{MARK}-{name}"].sheets[f"{MARK}_tab"]

    def case(name: str, problem: Problem, tells: str, how: Callable[[], object], **options: object) -> Case:
        sheet: list[list[object]] = [["x", f"{MARK}_ward"], [1.5, "a"]]
        server.books[f"{MARK}-{name}"] = Book({f"{MARK}_tab": sheet}, {email})
        table = {
            "source": "sheets",
            "spreadsheet": f"{MARK}-{name}",
            "service_account": f"{MARK}_account.json",
            "columns": ["x"],
            "endpoint": server.url,
            "retry_seconds": 0,
            "ttl": 0,
        }
        return Case(f"sheets_{name}", table | options, problem, tells, how)

    def says(status: int, name: str) -> Callable[[], None]:
        return lambda: server.instead.append(Answer.error(status, name, f"{MARK}_words of Google's"))

    def unshared(name: str) -> None:
        server.books[f"{MARK}-{name}"].readers.clear()

    removed = server.save_account(f"{MARK}_removed", at / f"{MARK}_removed.json")

    def without_key() -> None:
        unshared("key")
        (at / f"{MARK}_lost.json").unlink()

    server.save_account(MARK, at / f"{MARK}_lost.json")
    gone = case("gone", Problem.MISCONFIGURED, "", lambda: server.books.pop(f"{MARK}-gone"))
    lost = case("key", Problem.UNAUTHORISED, MARK, without_key, service_account=f"{MARK}_lost.json")
    token = case("token", Problem.UNAUTHORISED, MARK, lambda: server.remove_account(removed),
                 service_account=f"{MARK}_removed.json")  # fmt: skip
    server.books[f"{MARK}-token"].readers.add(removed)
    away.save_account(MARK, at / f"{MARK}_away.json")
    away.books[f"{MARK}-away"] = Book({f"{MARK}_tab": [["x"], [1.5]]}, {email})
    return [
        case("cell", Problem.MISFIT, "", lambda: rows("cell").append([f"{MARK}_cell", "a"]), types={"x": "float64"}),
        case("empty", Problem.NO_VALUE, "", lambda: rows("empty").append(["", f"{MARK}_row"])),
        case("formula", Problem.NO_VALUE, "", lambda: rows("formula").append(["#DIV/0!", f"{MARK}_row"])),
        case("renamed", Problem.CHANGED, "", lambda: rows("renamed")[0].__setitem__(0, f"{MARK}_x")),
        case("twice", Problem.TWICE, MARK, lambda: rows("twice")[0].append(f"{MARK}_ward")),
        case("nameless", Problem.NO_COLUMNS, "", lambda: rows("nameless")[0].clear()),
        case("keyless", Problem.NOT_KEYS, MARK, lambda: rows("keyless").append([2.5]), clients=f"{MARK}_ward"),
        case("unshared", Problem.UNAUTHORISED, MARK, lambda: unshared("unshared")),
        case("tab", Problem.MISCONFIGURED, MARK, lambda: server.books[f"{MARK}-tab"].sheets.update(
            other=server.books[f"{MARK}-tab"].sheets.pop(f"{MARK}_tab")), worksheet=f"{MARK}_tab"),
        case("range", Problem.MISCONFIGURED, MARK, says(400, "INVALID_ARGUMENT")),
        case("busy", Problem.BUSY, "", says(429, "RESOURCE_EXHAUSTED")),
        case("down", Problem.UNREACHABLE, MARK, says(503, "UNAVAILABLE")),
        case("away", Problem.UNREACHABLE, away.url, lambda: away.__exit__(), endpoint=away.url,
             service_account=f"{MARK}_away.json"),
        gone,
        token,
        lost,
        Case(lost.source, lost.options, Problem.MISCONFIGURED),  # once more: the key file is read again
    ]  # fmt: skip


PYTHON = f"""
import pathlib
import numpy


class {MARK}_Error(Exception):
    pass


class {MARK}_Thing:
    def __array__(self, *_, **__):
        raise ValueError("{MARK}_array")


class {MARK}_Mapping:
    def keys(self):
        return ["x"]

    def __getitem__(self, name):
        raise KeyError("{MARK}_item")


def error(what):
    raise what


HOW = {{
    "words": lambda: error(RuntimeError("{MARK}_words\\nof several lines")),
    "exit": lambda: error(SystemExit("{MARK}_exit")),
    "own_error": lambda: error({MARK}_Error()),
    "no_mapping": {MARK}_Thing,
    "lazy": {MARK}_Mapping,
    "lengths": lambda: {{"x": [1.0, 2.0], "{MARK}_ssn": [1.0]}},
    "empty": dict,
    "other_type": lambda: {{"x": ["{MARK}_cell"]}},
    "other_columns": lambda: {{"{MARK}_y": [1.0]}},
    "mixed": lambda: {{"x": [1.0, "{MARK}_cell"]}},
    "things": lambda: {{"x": numpy.array([object.__new__(type("{MARK}_Kind", (), {{}}))], dtype=object)}},
    "array": lambda: {{"x": {MARK}_Thing()}},
    "one": lambda: {{"x": {NUMBER}.0}},
    "missing": lambda: {{"x": [None, None]}},
    "some_missing": lambda: {{"x": numpy.array([1.5, None], dtype=object)}},
    "large": lambda: {{"x": numpy.array([{NUMBER} << 64], dtype=object)}},
    "moments": lambda: {{"x": numpy.array(["NaT"], "datetime64[s]")}},
    "masked": lambda: {{"x": numpy.ma.masked_array([1.0], [True])}},
    "long": lambda: {{"x": numpy.array([1.0], numpy.longdouble)}},
    "ragged": lambda: {{"x": numpy.array([[1.0], [1.0, 2.0]], dtype=object)}},
    "stranger": lambda: {{"x": [1.5], "{MARK}_ward": ["{MARK}_key"]}},
    "no_keys": lambda: {{"x": [1.5]}},
    "vector_keys": lambda: {{"x": [1.5], "{MARK}_ward": [[1.0]]}},
}}


def rows(how, token, clients=False):
    if pathlib.Path("spoiled").exists():
        return HOW[how]()
    return {{"x": [1.5], "{MARK}_ward": ["a"]}} if clients else {{"x": [1.5]}}
"""


def python_cases(at: Path) -> list[Case]:
    """Return cases of a Python function that raises, or returns a value that is not a column."""
    (at / f"{MARK}_module.py").write_text(PYTHON)
    spoil = (at / "spoiled").touch

    def case(how: str, problem: Problem, tells: str = "", *, clients: bool = False) -> Case:
        arguments: dict[str, object] = {"how": how, "token": f"{MARK}_argument"}
        table: dict[str, object] = {"source": "python", "callable": f"{MARK}_module:rows"}
        if clients:
            arguments, table = arguments | {"clients": True}, table | {"clients": f"{MARK}_ward"}
        return Case(f"python_{how}", table | {"arguments": arguments}, problem, tells, spoil)

    return [
        case("words", Problem.UNREADABLE, MARK),
        case("exit", Problem.UNREADABLE, MARK),
        case("own_error", Problem.UNREADABLE, MARK),
        case("no_mapping", Problem.NO_COLUMNS, MARK),
        case("lazy", Problem.UNREADABLE, MARK),
        case("lengths", Problem.UNEQUAL_LENGTHS, MARK),
        case("empty", Problem.NO_COLUMNS, MARK),
        case("other_type", Problem.CHANGED),
        case("other_columns", Problem.CHANGED),
        case("mixed", Problem.MIXED),
        case("things", Problem.NO_COUNTERPART, MARK),
        case("array", Problem.NO_COUNTERPART, MARK),
        case("one", Problem.NOT_ROWS),
        case("missing", Problem.NO_TYPE),
        case("some_missing", Problem.NO_VALUE),
        case("large", Problem.OUT_OF_RANGE),
        case("moments", Problem.NO_VALUE),
        case("masked", Problem.NO_VALUE),
        case("long", Problem.NO_COUNTERPART),
        case("ragged", Problem.RAGGED),
        case("stranger", Problem.OTHER_CLIENTS, clients=True),
        case("no_keys", Problem.NOT_KEYS, MARK, clients=True),
        case("vector_keys", Problem.NOT_KEYS, MARK, clients=True),
    ]


INSTALLED = f"""
import numpy
from fedbroker.errors import ComputationFailed, RuntimeUnavailable, WireError
from fedbroker.wire.messages import Column, Source
from fedbroker_worker.errors import ColumnError, PolicyRefused, SessionLost, SettingsError, SourceError, WorkRefused


class {MARK}_Error(Exception):
    pass


class {MARK}_Text(str):
    pass


ERRORS = {{
    "source": SourceError("{MARK}_source", "{MARK}_what", hint="{MARK}_hint"),
    "column": ColumnError("{{name}}", "{MARK}_column", "{MARK}_what", hint="{MARK}_hint"),
    "settings": SettingsError("{MARK}_what", hint="{MARK}_hint"),
    "policy": PolicyRefused("{MARK}_rule", "{MARK}_what"),
    "work": WorkRefused("{MARK}_what"),
    "session": SessionLost("{MARK}_what"),
    "computation": ComputationFailed("{MARK}_STATUS", "{MARK}_detail"),
    "runtime": RuntimeUnavailable("{MARK}_what", retryable=True),
    "wire": WireError("{MARK}_what"),
    "own": {MARK}_Error("{MARK}_what"),
    "time": TimeoutError("{MARK}_what"),
}}
COLUMNS = {{
    "absent": {{}},
    "text": {{"x": numpy.array(["{MARK}_cell"])}},
    "list": {{"x": ["{MARK}_cell"]}},
    "objects": {{"x": numpy.array([{MARK}_Error()], dtype=object)}},
}}


class Leaky:
    def __init__(self, name, options, directory):
        self.how = options["how"]

    def describe(self):
        return Source((Column("x", "float64"),))

    def count(self):
        raise RuntimeError("{MARK}_count")

    def read(self, columns):
        if self.how in ERRORS:
            raise ERRORS[self.how]
        return [COLUMNS[self.how]] if self.how in COLUMNS else ["{MARK}", "{MARK}"]

    def interrupt(self):
        raise RuntimeError("{MARK}_interrupt")

    def close(self):
        raise RuntimeError("{MARK}_close")
"""


def installed_cases(at: Path) -> list[Case]:
    """Return cases of a third-party kind of source that raises any error; ``at`` must be on the module path."""
    module = f"{MARK}_installed_{secrets.token_hex(4)}"
    metadata = at / "leaky-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nleaky = {module}:Leaky\n")
    (at / f"{module}.py").write_text(INSTALLED)

    def case(how: str, problem: Problem = Problem.UNREADABLE, tells: str = MARK) -> Case:
        return Case(f"installed_{how}", {"source": "leaky", "how": how}, problem, tells)

    return [
        *(
            case(how)
            for how in ("source", "policy", "work", "session", "computation", "runtime", "wire", "own", "time")
        ),
        case("column", Problem.UNUSABLE),
        case("settings", Problem.MISCONFIGURED),
        case("absent", tells=""),
        case("text", Problem.NOT_CONVERTIBLE, ""),
        case("list", tells=""),
        case("objects", Problem.NOT_CONVERTIBLE, ""),
        case("too_many", Problem.OTHER_CLIENTS, ""),
    ]
