"""Several clients in one query of a database: their keys, from the query itself or from a separate one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedbroker_worker.errors import ColumnError, SettingsError
from fedbroker_worker.problems import Problem
from fedbroker_worker.sources.client_keys import clients_among
from fedbroker_worker.sources.sql.single_select import one_select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedbroker_worker.sources.cancellable import Call
    from fedbroker_worker.sources.clients import Clients
    from fedbroker_worker.sources.sql.database import Database

__all__ = ["listed_clients"]


def listed_clients(database: Database, wanted: str, query: str, columns: Sequence[str], call: Call) -> Clients:
    """Return the current clients.

    Args:
        database: the source's database.
        wanted: one of ``columns``; or one SELECT of the keys, whose only column has the name of one of ``columns``.
        query: the source's query.
        columns: the columns of ``query``.
        call: the running call, which may be ended.

    Raises:
        SettingsError: ``wanted`` is neither, or leaves the source without columns.
        ColumnError: a key is NULL.
        SourceError: a query fails.
    """
    label = f"'clients' in [data.{database.source}]"
    listed = wanted not in columns
    keys_query = one_select(wanted) if listed else query
    if keys_query is None:
        what = f"{label} is neither a column of the query nor one SELECT"
        raise SettingsError(what, hint=f"there are the columns {', '.join(columns)}")
    if len(columns) == 1:
        what = f"{label} takes {columns[0]!r}, the only column of the query"
        raise SettingsError(what, hint="select what the clients compute with, too; the same column twice if need be")
    column = _only_column(label, database, keys_query, columns, call) if listed else wanted
    keys = database.distinct(keys_query, column, call)
    if None in keys:
        where = "the query of 'clients'" if listed else "the query"
        hint = f"add `where {column} is not null` to {where}, or coalesce()"
        raise ColumnError(
            database.source, column, "has NULLs, which are no client's key", hint=hint, problem=Problem.NOT_KEYS
        )
    return clients_among(column, keys, listed=listed)


def _only_column(label: str, database: Database, query: str, columns: Sequence[str], call: Call) -> str:
    with database.rows(query, call, 1) as rows:
        found = list(rows.names)
    if len(found) != 1:
        what = f"{label} yields {len(found)} columns ({', '.join(found)}), not one"
        raise SettingsError(what, hint="select the clients' keys only")
    if found[0] not in columns:
        what = f"{label} yields a column {found[0]!r}, which the query lacks"
        raise SettingsError(what, hint=f"call it as the query does, by `as`; there are {', '.join(columns)}")
    return found[0]
