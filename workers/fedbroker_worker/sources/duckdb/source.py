"""Columns by SQL from CSV, Parquet, JSON and DuckDB's own files, through the embedded database duckdb."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, cast

import duckdb
import numpy as np
from msgspec import Meta

from fedbroker.wire.messages import Column, Source
from fedbroker_worker.errors import ColumnError, Problem, SettingsError, SourceError
from fedbroker_worker.options import read_table
from fedbroker_worker.sources.arrays import Array, array_of, vectors_of
from fedbroker_worker.sources.clients import Clients
from fedbroker_worker.sources.column_types import of_each
from fedbroker_worker.sources.duckdb.imports import prepare
from fedbroker_worker.sources.duckdb.profile import first_rows, profile_columns
from fedbroker_worker.sources.duckdb.sqltypes import (
    READERS,
    SqlColumn,
    from_file,
    one_line,
    one_select,
    quoted,
    sql_column,
)
from fedbroker_worker.sources.profile import SourceProfile, rows_of_clients

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from fedbroker_worker.sources.protocol import Columns


__all__ = ["DuckDBOptions", "DuckDBSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DuckDBOptions:
    """The keys of a ``[data.NAME]`` with ``source = "duckdb"``; one of ``query`` and ``file``.

    Attributes:
        query: one SQL statement that yields the rows, in the order in which they are to be used.
        file: a CSV, Parquet or JSON file, or a pattern with ``*`` for several; all of its columns.
        clients: a column of the query; rows with the same value in it belong to one client. Or one SELECT that yields
            the clients' keys in one column with the name of that column. With None, all rows belong to one client.
        database: a DuckDB database file for the query's tables; opened read-only.
        memory_limit: the most memory that duckdb may use, such as ``"2GB"``; 80 % of the machine's with None.
        threads: the most threads that duckdb may use; one for each core with None.
    """

    query: Annotated[str | None, Meta(description="an SQL query, such as \"select x, y from 'file.csv'\"")] = None
    file: Annotated[str | None, Meta(description="a CSV, Parquet or JSON file")] = None
    clients: Annotated[str | None, Meta(description="a column of the query, or an SQL query of the keys")] = None
    database: Annotated[str | None, Meta(description="a DuckDB database file")] = None
    memory_limit: Annotated[str | None, Meta(description='a size, such as "2GB"')] = None
    threads: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="a number, at least 1")] = None


class DuckDBSource:
    """The rows of one query; see :class:`~fedbroker_worker.sources.protocol.DataSource`.

    Every dtype of numpy's integers and floats, ``bool`` and text has its counterpart; a fixed-size array or a list of
    them makes a column of vectors. DECIMAL becomes ``float64``; HUGEINT becomes ``int64`` if it fits; ENUM and UUID
    become text, BLOB text of the same bytes; DATE becomes ``int32``, days since 1970; TIMESTAMP becomes ``int64``,
    microseconds since 1970 in UTC. Other types (TIME, INTERVAL, STRUCT, MAP, …) must be cast in the query.

    With ``clients``, the clients are in the order of their keys, as duckdb sorts these keys' SQL type, each with its
    rows in the order of the query. Keys are compared as text. Their column itself is not announced; a query that
    selects it twice also has it as a column.

    A file's relative name in a query is resolved in ``directory``. (duckdb itself prefers a file of that name in the
    process's working directory: ``fedbroker-silo`` therefore works in ``directory``.)

    Args:
        name: the source's name in the settings.
        options: see :class:`DuckDBOptions`.
        directory: the directory to which relative paths are relative.

    Raises:
        SettingsError: an option is wrong, or neither or both of ``query`` and ``file`` are given.
    """

    def __init__(self, name: str, options: Mapping[str, Any], directory: Path) -> None:
        text = [key for key, value in options.items() if isinstance(value, str)]
        self._options = read_table(DuckDBOptions, options, label=lambda key: f"{key!r} in [data.{name}]", lenient=text)
        self._name = name
        self._directory = directory.absolute()
        self._query = self._source_query()
        self._clients: Clients | None = None
        self._lock = threading.Lock()
        self._memory: duckdb.DuckDBPyConnection | None = None
        self._dropped: list[duckdb.DuckDBPyConnection] = []  # closed once no call uses them
        self._running: dict[duckdb.DuckDBPyConnection, bool] = {}  # value: True for a read
        self._closed = False

    def describe(self) -> Source:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        with self._connected() as connection:
            described = self._described(connection)
            clients = self._clients = self._find_clients(connection, described)
        columns = tuple(column.announced for column in self._columns(described, clients))
        return Source(columns, clients=1 if clients is None else len(clients.keys))

    def count(self) -> int:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        with self._connected() as connection:
            counted = f"select count(*) from ({self._query}\n)"  # the administrator's own query  # nosec B608
            row = connection.execute(counted).fetchone()
        return int(row[0]) if row else 0

    def read(self, columns: Sequence[str]) -> Sequence[Columns]:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`.

        The clients are those of the last ``describe``, or else the current ones.
        """
        with self._connected(reading=True) as connection:
            described = self._described(connection)
            clients = self._clients = self._clients or self._find_clients(connection, described)
            wanted = self._chosen(columns, self._columns(described, clients))
            key = None if clients is None else key_expression(clients)
            rows, keys = fetch_rows(self._name, connection, self._query, wanted, key)
        return [rows] if clients is None or keys is None else clients.deal(self._name, rows, keys)

    def profile(self, head: int) -> SourceProfile:
        """See :class:`~fedbroker_worker.sources.profile.ProfiledSource`."""
        with self._connected(reading=True) as connection:
            types = self._described(connection)
            clients = self._find_clients(connection, types)
            columns = self._columns(types, clients)

            def read(column: SqlColumn) -> object:
                # Its own connection: the read of a vector leaves a temporary table.
                with self._connected(reading=True) as own:
                    return fetch_rows(self._name, own, self._query, [column], None)

            profiles = profile_columns(self._name, connection, self._query, columns, types, read)
            counted = f"select count(*) from ({self._query}\n)"  # the administrator's own query  # nosec B608
            rows = int((connection.execute(counted).fetchone() or (0,))[0])
            head_rows = first_rows(connection, self._query, profiles, head)
            by_client, error = None, None
            if clients is not None:
                _, keys = fetch_rows(self._name, connection, self._query, [], key_expression(clients))
                by_client, error = rows_of_clients(self._name, clients, cast("Array", keys))
        return SourceProfile(self._query, rows, tuple(profiles), head_rows, by_client, error)

    def interrupt(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        with self._lock:
            for connection, reading in self._running.items():
                if reading:
                    connection.interrupt()

    def close(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        with self._lock:
            self._closed = True
            for connection in self._running:
                connection.interrupt()
            self._drop_memory()

    def _described(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """Return the SQL type of each column of the query, by name."""
        described = f"describe select * from ({self._query}\n)"  # the administrator's own query  # nosec B608
        rows = connection.execute(described).fetchall()
        return {str(row[0]): str(row[1]) for row in rows}

    def _find_clients(self, connection: duckdb.DuckDBPyConnection, described: Mapping[str, str]) -> Clients | None:
        wanted = self._options.clients
        return None if wanted is None else find_clients(self._name, wanted, connection, self._query, list(described))

    def _columns(self, described: Mapping[str, str], clients: Clients | None) -> list[SqlColumn]:
        client_column = None if clients is None else clients.column
        names = [name for name in described if name != client_column]
        return list(of_each(names, lambda name: sql_column(self._name, name, described[name])).values())

    def _chosen(self, names: Sequence[str], columns: Sequence[SqlColumn]) -> list[SqlColumn]:
        """Return the columns of these names, each once."""
        found = {column.name: column for column in columns}
        for name in names:
            if name not in found:
                raise ColumnError(
                    self._name,
                    name,
                    "does not exist",
                    hint=f"available: {', '.join(found)}",
                    problem=Problem.UNKNOWN_COLUMN,
                )
        return [found[name] for name in dict.fromkeys(names)]

    def _source_query(self) -> str:
        query, file = self._options.query, self._options.file
        if (query is None) == (file is None):
            which = "neither" if query is None else "both"
            raise SettingsError(f"[data.{self._name}] has {which} of 'query' and 'file'", hint="give one of them")
        return self._of_file(file) if file is not None else self._one_statement(query or "")

    def _of_file(self, file: str) -> str:
        statement = from_file(self._directory / file)
        if statement is None:
            raise SettingsError(
                f"'file' in [data.{self._name}]: {file!r} has none of the endings {', '.join(READERS)}",
                hint="rename it, or read it by a query such as \"from read_csv('…')\"",
            )
        return statement

    def _one_statement(self, query: str) -> str:
        prepare()
        try:
            with duckdb.connect(":memory:") as connection:
                statement = one_select(connection, query)
        except duckdb.Error as error:
            raise SettingsError(f"'query' in [data.{self._name}]: {one_line(error)}", hint="correct it") from None
        if statement is None:
            raise SettingsError(
                f"'query' in [data.{self._name}] is not one SELECT", hint="write one statement that yields the rows"
            )
        return statement

    @contextmanager
    def _connected(self, *, reading: bool = False) -> Generator[duckdb.DuckDBPyConnection]:
        """Open a connection for one call; convert duckdb's errors to a SourceError."""
        connection = None
        try:
            connection = self._connect()
            with self._lock:
                if self._closed:
                    raise SourceError(self._name, "it is closed", problem=Problem.CLOSED)
                self._running[connection] = reading
            yield connection
        except duckdb.InterruptException:
            raise SourceError(self._name, "reading was interrupted", problem=Problem.INTERRUPTED) from None
        except duckdb.Error as error:
            if isinstance(error, duckdb.FatalException | duckdb.InternalException):
                with self._lock:
                    self._drop_memory()
            hint = f"correct its query; files are looked for in {self._directory}"
            raise SourceError(self._name, one_line(error), hint=hint, problem=Problem.UNREADABLE) from None
        finally:
            if connection is not None:
                with self._lock:
                    self._running.pop(connection, None)
                    connection.close()
                    self._close_dropped()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Connect to the database in memory, which stays open because opening it takes 40 ms; or to the database file.

        A file is opened for each call, because an open file stays locked for other processes.
        """
        if self._options.database is not None:
            return self._open(str(self._directory / self._options.database), read_only=True)
        with self._lock:
            if self._closed:
                raise SourceError(self._name, "it is closed", problem=Problem.CLOSED)
            if self._memory is None:
                self._memory = self._open(":memory:", read_only=False)
            return self._memory.cursor()

    def _drop_memory(self) -> None:
        """Drop the database in memory, so that the next call opens a new one."""
        if self._memory is not None:
            self._dropped.append(self._memory)
        self._memory = None
        self._close_dropped()

    def _close_dropped(self) -> None:
        """Close dropped databases once no call is running, because closing one ends all connections to it."""
        while self._dropped and not self._running:
            self._dropped.pop().close()

    def _open(self, database: str, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        prepare()
        options = self._options
        # Only an administrator may fetch code from the network (`INSTALL` in duckdb's own shell), not a query.
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "enable_external_file_cache": "false",
        }
        if "," not in str(self._directory):  # a comma separates the paths in this setting, and cannot be quoted
            config["file_search_path"] = str(self._directory)
        if options.memory_limit is not None:
            config["memory_limit"] = options.memory_limit
        if options.threads is not None:
            config["threads"] = str(options.threads)
        return duckdb.connect(database, read_only=read_only, config=config)


def key_expression(clients: Clients) -> str:
    """Return the SQL expression of each row's key in the source's query."""
    return f"{quoted(clients.column)}::VARCHAR"


def find_clients(
    source: str, wanted: str, connection: duckdb.DuckDBPyConnection, query: str, columns: Sequence[str]
) -> Clients:
    """Return the current clients.

    They are in the order in which duckdb sorts the keys' own SQL type: numbers by size, text by its bytes.

    Args:
        source: the source's name, for errors.
        wanted: one of ``columns``; or one SELECT of the keys, whose only column has the name of one of ``columns``.
        connection: a connection to the source's database.
        query: the source's query.
        columns: the columns of ``query``.

    Raises:
        SettingsError: ``wanted`` is neither, or leaves the source without columns.
        ColumnError: a key is NULL.
        duckdb.Error: a query fails.
    """
    label = f"'clients' in [data.{source}]"
    listed = wanted not in columns
    keys = _statement(label, wanted, connection, columns) if listed else query
    column = _only_column(label, keys, connection, columns) if listed else wanted
    if len(columns) == 1:
        what = f"{label} takes {column!r}, the only column of the query"
        raise SettingsError(what, hint="select what the clients compute with, too; the same column twice if need be")
    return Clients(column, _keys(source, column, keys, connection, listed), listed)


def _statement(label: str, wanted: str, connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
    try:
        statement, why = one_select(connection, wanted), ""
    except duckdb.ParserException as error:
        statement, why = None, f" ({one_line(error)})"
    if statement is None:
        what = f"{label} is neither a column of the query nor one SELECT{why}"
        raise SettingsError(what, hint=f"the columns are {', '.join(columns)}")
    return statement


def _only_column(label: str, keys: str, connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
    described = f"describe select * from ({keys}\n)"  # the administrator's own query  # nosec B608
    found = [str(row[0]) for row in connection.execute(described).fetchall()]
    if len(found) != 1:
        what = f"{label} yields {len(found)} columns ({', '.join(found)}), not one"
        raise SettingsError(what, hint="select the clients' keys only")
    if found[0] not in columns:
        what = f"{label} yields a column {found[0]!r}, which the query lacks"
        raise SettingsError(what, hint=f"call it as the query does, by `as`; the columns are {', '.join(columns)}")
    return found[0]


def _keys(source: str, column: str, keys: str, connection: duckdb.DuckDBPyConnection, listed: bool) -> tuple[str, ...]:
    # Equal values may differ as text (-0.0 and 0.0), and different values may have the same text.
    each = f"select {quoted(column)} as key from ({keys}\n)"  # the administrator's own query  # nosec B608
    texts = f"select distinct key, key::VARCHAR as key_text from ({each})"  # as above  # nosec B608
    rows = connection.execute(f"select key_text from ({texts}) order by key, key_text").fetchall()  # as above  # nosec B608
    keys_as_text = dict.fromkeys(row[0] for row in rows)
    if None in keys_as_text:
        where = "the query of 'clients'" if listed else "the query"
        hint = f"add `where {column} is not null` to {where}, or coalesce()"
        raise ColumnError(source, column, "has NULLs, which are no client's key", hint=hint, problem=Problem.NOT_KEYS)
    return tuple(keys_as_text)


def fetch_rows(
    source: str, connection: duckdb.DuckDBPyConnection, query: str, columns: Sequence[SqlColumn], key: str | None
) -> tuple[dict[str, Array], Array | None]:
    """Read all rows of a query, from one state of the data.

    Args:
        source: the source's name, for errors.
        connection: a connection to the database; for flat vectors, a temporary table is created in it.
        query: one SELECT.
        columns: the requested columns, each once.
        key: an additional expression, the client's key; None for none.

    Returns:
        The columns by name, and the cells of ``key``.

    Raises:
        ColumnError: columns have a NULL, or vectors of different lengths; names all of them.
        duckdb.Error: the query fails.
    """
    flat = [column for column in columns if column.flat]
    others = [one for column in columns if not column.flat for one in column.elements or (column.expression,)]
    others += [] if key is None else [key]
    wanted = [*others, *(column.expression for column in flat)]
    table = f"({query}\n)"
    if flat:
        # A copy, so that all columns are of the same rows even if the files change between two reads.
        made = f"create temp table fedbroker_rows as select {_named(wanted)} from {table}"  # ours, quoted  # nosec B608
        connection.execute(made)
        table, others = "fedbroker_rows", [f"c{at}" for at in range(len(others))]
    arrays = _arrays(connection, others, table)
    by_name = {column.name: column for column in columns}

    def read(name: str) -> Array:
        column = by_name[name]
        if not column.flat:
            return _array(source, column, arrays)
        at = f"c{len(others) + flat.index(column)}"
        (lengths,) = _arrays(connection, [f"len({at})"], table)
        (elements,) = _arrays(connection, [f"unnest({at})"], table)
        return vectors_of(source, column.announced, lengths, elements)

    rows = of_each(by_name, read)
    return rows, None if key is None else next(arrays)


def _arrays(connection: duckdb.DuckDBPyConnection, expressions: Sequence[str], table: str) -> Iterator[Array]:
    if not expressions:
        return iter(())
    selected = f"select {_named(expressions)} from {table}"  # names are ours, or quoted  # nosec B608
    executed = cast("Any", connection.execute(selected))
    return iter(cast("dict[str, Array]", executed.fetchnumpy()).values())


def _named(expressions: Sequence[str]) -> str:
    return ", ".join(f"{expression} as c{at}" for at, expression in enumerate(expressions))


def _array(source: str, column: SqlColumn, cells: Iterator[Array]) -> Array:
    """Return one column from its own cells, or from those of its elements; takes all of them, also if it raises."""
    own = list(islice(cells, len(column.elements) or 1))
    if not column.elements:
        return array_of(source, column.announced, own[0])
    element = Column(column.name, column.announced.dtype)
    return np.stack([array_of(source, element, one) for one in own], axis=1)
