"""Several clients in one query's rows: which there are, and whose each row is.

Imports wire's messages and this distribution's errors and the other modules of the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb
import numpy as np

from fedbroker.wire.messages import Column
from fedbroker_worker.errors import ColumnError, SettingsError, SourceError
from fedbroker_worker.sources.cells import Array, array_of
from fedbroker_worker.sources.sqltypes import quoted
from fedbroker_worker.sources.statements import one_line, one_select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedbroker_worker.sources.protocol import Columns

__all__ = ["Clients", "find_clients"]

_AGAIN: Final = "start the silo again so that it announces its clients anew"


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of a source, as they are announced.

    Attributes:
        column: of the source's query; rows with the same value there are one client's.
        keys: those values as text, each once, in the order of the clients.
        listed: a query of their own yields the keys, not the rows.
    """

    column: str
    keys: tuple[str, ...]
    listed: bool

    @property
    def expression(self) -> str:
        """Selects the key of each row from the source's query."""
        return f"{quoted(self.column)}::VARCHAR"

    def deal(self, source: str, rows: Columns, cells: Array) -> list[Columns]:
        """Each client's own rows, in their order.

        Args:
            source: the source's name, for errors.
            rows: of all clients.
            cells: what ``expression`` yields for each row.

        Returns:
            One for each of ``keys``; a client without rows has arrays of length 0.

        Raises:
            ColumnError: the key of a row is NULL.
            SourceError: the key of a row is none of ``keys``.
        """
        owners = self._owners(source, array_of(source, Column(self.column, "str"), cells))
        order = np.argsort(owners, kind="stable")
        ends = np.cumsum(np.bincount(owners, minlength=len(self.keys)))
        dealt = {name: np.split(array[order], ends[:-1]) for name, array in rows.items()}
        return [{name: pieces[at] for name, pieces in dealt.items()} for at in range(len(self.keys))]

    def _owners(self, source: str, keys: Array) -> Array:
        """The number of each row's client."""
        numbers = {key: at for at, key in enumerate(self.keys)}
        owners = np.fromiter((numbers.get(key, -1) for key in keys), np.int64, len(keys))
        strangers = int(np.count_nonzero(owners < 0))
        if strangers:
            # The keys themselves are not told: this line goes to the coordinator, and they may name people.
            what = f"{strangers} of {len(keys)} rows are of no client that it announced"
            hint = f"add their {self.column} to the query of 'clients', or, if the data have changed, {_AGAIN}"
            raise SourceError(source, what, hint=hint if self.listed else _AGAIN)
        return owners


def find_clients(
    source: str, wanted: str, connection: duckdb.DuckDBPyConnection, query: str, columns: Sequence[str]
) -> Clients:
    """The clients that there are now.

    They are in the order in which duckdb sorts the keys' own SQL type: numbers by size, text by its bytes.

    Args:
        source: the source's name, for errors.
        wanted: one of ``columns``; else one SELECT of the keys, whose only column is called as one of ``columns`` is.
        connection: to the source's database.
        query: the source's own.
        columns: of ``query``.

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
    found = [str(row[0]) for row in connection.execute(f"describe select * from ({keys}\n)").fetchall()]
    if len(found) != 1:
        what = f"{label} yields {len(found)} columns ({', '.join(found)}), not one"
        raise SettingsError(what, hint="select the clients' keys only")
    if found[0] not in columns:
        what = f"{label} yields a column {found[0]!r}, which the query lacks"
        raise SettingsError(what, hint=f"call it as the query does, by `as`; there are {', '.join(columns)}")
    return found[0]


def _keys(source: str, column: str, keys: str, connection: duckdb.DuckDBPyConnection, listed: bool) -> tuple[str, ...]:
    # Values that count as the same may differ as text (-0.0 and 0.0), and the other way round.
    each = f"select distinct key, key::VARCHAR as word from (select {quoted(column)} as key from ({keys}\n))"
    rows = connection.execute(f"select word from ({each}) order by key, word").fetchall()
    words = dict.fromkeys(row[0] for row in rows)
    if None in words:
        where = "the query of 'clients'" if listed else "the query"
        hint = f"add `where {column} is not null` to {where}, or coalesce()"
        raise ColumnError(source, column, "has NULLs, which are no client's key", hint=hint)
    return tuple(words)
