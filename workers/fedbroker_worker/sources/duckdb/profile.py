"""Summaries of a duckdb query's rows, computed in duckdb, and the SQL that mends what cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import duckdb

from fedbroker_worker.errors import ColumnError, Problem, SourceError
from fedbroker_worker.sources.column_types import DATE, DATETIME
from fedbroker_worker.sources.duckdb.sqltypes import one_line, quoted
from fedbroker_worker.sources.profile import ColumnProfile, type_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedbroker_worker.sources.duckdb.sqltypes import SqlColumn

__all__ = ["first_rows", "profile_columns"]

_UNORDERED: Final = ("BLOB",)
"""SQL types whose least and greatest values mean nothing to a reader."""


def profile_columns(
    source: str,
    connection: duckdb.DuckDBPyConnection,
    query: str,
    columns: Sequence[SqlColumn],
    types: Mapping[str, str],
    read: Callable[[SqlColumn], object],
) -> list[ColumnProfile]:
    """Summarise each column.

    Args:
        source: the source's name, for errors.
        connection: a connection to the database.
        query: the source's query.
        columns: the offered columns.
        types: the SQL type of each column.
        read: reads a column as a computation would.

    Raises:
        duckdb.InterruptException: the call was interrupted.
    """
    profiles: list[ColumnProfile] = []
    for column in columns:
        type_ = types[column.name]
        text = type_text(column.announced, _origin(type_))
        try:
            nulls, least, greatest = _aggregates(connection, query, column, type_)
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            profiles.append(ColumnProfile(column.name, text, error=_not_computed(source, column.name, type_, error)))
            continue
        found = None if nulls else _error_of(source, column, type_, read)
        profiles.append(ColumnProfile(column.name, text, nulls, least, greatest, found))
    return profiles


def first_rows(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    columns: Sequence[ColumnProfile],
    count: int,
) -> tuple[tuple[str | None, ...], ...]:
    """Return the first rows as text; empty cells for a column that cannot be computed."""
    if not columns or not count:
        return ()
    cells = ", ".join("''" if column.nulls is None else f"{quoted(column.name)}::VARCHAR" for column in columns)
    selected = f"select {cells} from ({query}\n) limit {count:d}"  # the administrator's own query  # nosec B608
    return tuple(tuple(row) for row in connection.execute(selected).fetchall())


def _aggregates(
    connection: duckdb.DuckDBPyConnection, query: str, column: SqlColumn, type_: str
) -> tuple[int, str, str]:
    """Return the number of NULLs, and the least and the greatest value as text."""
    name = quoted(column.name)
    bounds = "NULL, NULL"
    if not column.announced.shape and type_ not in _UNORDERED:
        bounds = f"min({name})::VARCHAR, max({name})::VARCHAR"
    # The expression of the column is aggregated, too: it converts each value as a read does, and may fail.
    selected = f"count(*) - count({name}), {bounds}, count({column.expression})"
    row: Any = connection.execute(f"select {selected} from ({query}\n)").fetchone()  # ours, quoted  # nosec B608
    return int(row[0]), row[1] or "", row[2] or ""


def _error_of(source: str, column: SqlColumn, type_: str, read: Callable[[SqlColumn], object]) -> SourceError | None:
    try:
        read(column)
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        return _not_computed(source, column.name, type_, error)
    except SourceError as error:
        return error
    return None


def _not_computed(source: str, name: str, type_: str, error: duckdb.Error) -> ColumnError:
    hint = "correct its expression in the query"
    if isinstance(error, duckdb.ConversionException | duckdb.OutOfRangeException):
        named = quoted(name)
        hint = f"write `try_cast(… as {type_}) as {named}` in the query, and add `where {named} is not null`"
    reason = one_line(error).split(" Possible solutions:", 1)[0]
    return ColumnError(source, name, f"cannot be computed: {reason}", hint=hint, problem=Problem.UNREADABLE)


def _origin(type_: str) -> str:
    if type_ == "DATE":
        return DATE
    return DATETIME if type_.startswith("TIMESTAMP") else ""
