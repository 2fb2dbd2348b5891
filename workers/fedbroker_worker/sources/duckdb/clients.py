"""Several clients in one duckdb query: their keys, and the order of the clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from fedbroker_worker.errors import ColumnError, SettingsError
from fedbroker_worker.problems import Problem
from fedbroker_worker.sources.clients import Clients
from fedbroker_worker.sources.duckdb.sqltypes import quoted
from fedbroker_worker.sources.duckdb.statements import one_line, one_select

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["find_clients", "key_of"]


def key_of(clients: Clients) -> str:
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
        raise SettingsError(what, hint=f"there are the columns {', '.join(columns)}")
    return statement


def _only_column(label: str, keys: str, connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> str:
    described = f"describe select * from ({keys}\n)"  # the administrator's own query  # nosec B608
    found = [str(row[0]) for row in connection.execute(described).fetchall()]
    if len(found) != 1:
        what = f"{label} yields {len(found)} columns ({', '.join(found)}), not one"
        raise SettingsError(what, hint="select the clients' keys only")
    if found[0] not in columns:
        what = f"{label} yields a column {found[0]!r}, which the query lacks"
        raise SettingsError(what, hint=f"call it as the query does, by `as`; there are {', '.join(columns)}")
    return found[0]


def _keys(source: str, column: str, keys: str, connection: duckdb.DuckDBPyConnection, listed: bool) -> tuple[str, ...]:
    # Equal values may differ as text (-0.0 and 0.0), and different values may have the same text.
    each = f"select {quoted(column)} as key from ({keys}\n)"  # the administrator's own query  # nosec B608
    texts = f"select distinct key, key::VARCHAR as word from ({each})"  # as above  # nosec B608
    rows = connection.execute(f"select word from ({texts}) order by key, word").fetchall()  # as above  # nosec B608
    words = dict.fromkeys(row[0] for row in rows)
    if None in words:
        where = "the query of 'clients'" if listed else "the query"
        hint = f"add `where {column} is not null` to {where}, or coalesce()"
        raise ColumnError(source, column, "has NULLs, which are no client's key", hint=hint, problem=Problem.NOT_KEYS)
    return tuple(words)
