"""Columns of one SELECT in any database with an SQLAlchemy dialect, read in batches."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import numpy as np
from msgspec import Meta

from fedbroker.credentials import read_secret
from fedbroker.wire.messages import Source
from fedbroker_worker.errors import ColumnError, Problem, SettingsError
from fedbroker_worker.options import read_table
from fedbroker_worker.sources.arrays import array_from, infer
from fedbroker_worker.sources.clients import clients_among, keys_as_text
from fedbroker_worker.sources.column_types import WITHOUT_ROWS, DeclaredType, check_names, given_types, of_each
from fedbroker_worker.sources.profile import CellSummary, SourceProfile, rows_of_clients
from fedbroker_worker.sources.sql.database import Database, database_at
from fedbroker_worker.threads import CancellableCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from fedbroker_worker.sources.arrays import Array
    from fedbroker_worker.sources.clients import Clients
    from fedbroker_worker.sources.protocol import Columns
    from fedbroker_worker.sources.sql.database import Rows
    from fedbroker_worker.threads import Call


__all__ = ["SqlOptions", "SqlSource"]

_URL: Final = 'a URL of SQLAlchemy\'s, such as "postgresql://user:password@host/database"'


_TOKEN: Final = re.compile(
    r"""
      --[^\n]*                          # comments
    | /\*.*?(?:\*/|\Z)
    | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$   # PostgreSQL's strings
    | '(?:[^']|'')*'                    # strings and names
    | "(?:[^"]|"")*"
    | `[^`]*`
    | \s+
    | (?P<word>\w+)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_FIRST: Final = ("select", "with", "values", "table")
"""Words with which a statement that yields rows may begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOptions:
    """The keys of a ``[data.NAME]`` with ``source = "sql"``; one of ``url`` and ``url_file``.

    Attributes:
        url: the database's URL in SQLAlchemy's format, with its password; not in the ``repr``.
        url_file: a file that holds the URL: a systemd credential or a path.
        query: one SELECT that yields the rows, in the order in which they are to be used.
        clients: a column of the query; rows with the same value in it belong to one client. Or one SELECT that yields
            the clients' keys in one column with the name of that column. With None, all rows belong to one client.
        types: types of columns whose first rows suggest another type.
        batch_rows: the number of rows that are read at a time.
    """

    query: Annotated[str, Meta(description='an SQL query, such as "select x, y from t"')]
    url: Annotated[str | None, Meta(description=_URL)] = field(default=None, repr=False)
    url_file: Annotated[str | None, Meta(description="a file that holds the database's URL")] = None
    clients: Annotated[str | None, Meta(description="a column of the query, or an SQL query of the keys")] = None
    types: Annotated[dict[str, str], Meta(description='types by column, such as {day = "date"}')] = field(
        default_factory=dict[str, str]
    )
    batch_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="a number from 1 to 1000000")] = 10_000


class SqlSource:
    """The rows of one query; see :class:`~fedbroker_worker.sources.protocol.DataSource`.

    Integers are ``int64``, other numbers ``float64``, truth values ``bool``; text, UUIDs and bytes are text; a date
    becomes ``int32``, days since 1970, a point in time ``int64``, microseconds since 1970 in UTC; a list (an array in
    PostgreSQL) makes a column of vectors. A column's type is in ``types``, or inferred from the first ``batch_rows``
    rows. Types and clients are those of the last ``describe``.

    No transaction is ever committed, and PostgreSQL and SQLite are told to refuse writes.

    Args:
        name: the source's name in the settings.
        options: see :class:`SqlOptions`.
        directory: the directory to which relative paths are relative, including those of SQLite files.

    Raises:
        SettingsError: an option is wrong, or the database's driver is not installed.
    """

    def __init__(self, name: str, options: Mapping[str, Any], directory: Path) -> None:
        text = [key for key, value in options.items() if isinstance(value, str)]
        self._options = read_table(SqlOptions, options, label=lambda key: f"{key!r} in [data.{name}]", lenient=text)
        self._name = name
        self._given = given_types(name, self._options.types)
        self._query = self._one_select()
        self._database: Database = database_at(name, self._url(directory.absolute()), directory.absolute())
        self._calls = CancellableCalls(name)
        self._lock = threading.Lock()
        self._typed: dict[str, DeclaredType] | None = None
        self._clients: Clients | None = None

    def describe(self) -> Source:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        typed, clients, rows = self._calls.run(self._described)
        with self._lock:
            # Without rows, the types are only placeholders: the next read infers them.
            self._typed, self._clients = None if rows == 0 else typed, clients
        columns = tuple(column.announced for column in self._offered(typed, clients).values())
        return Source(columns, rows=rows, clients=1 if clients is None else len(clients.keys))

    def count(self) -> int:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        return self._calls.run(lambda call: self._database.count(self._query, call))

    def read(self, columns: Sequence[str]) -> Sequence[Columns]:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        return self._calls.run(lambda call: self._read(columns, call), reading=True)

    def profile(self, head: int) -> SourceProfile:
        """See :class:`~fedbroker_worker.sources.profile.ProfiledSource`."""
        return self._calls.run(lambda call: self._profile(head, call), reading=True)

    def interrupt(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        self._calls.interrupt()

    def close(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        self._calls.close()

    def _described(self, call: Call) -> tuple[dict[str, DeclaredType], Clients | None, int | None]:
        """Return the columns' types, the clients, and the number of rows if it is less than ``batch_rows``."""
        with self._database.rows(self._query, call, self._options.batch_rows) as rows:
            first = rows.next()
            check_names(self._name, "types", self._options.types, rows.names)
            places = {name: at for at, name in enumerate(rows.names) if not self._is_client_column(name)}
            typed = of_each(places, lambda name: self._type(name, places[name], first))
            number = len(first) if len(first) < self._options.batch_rows else None
            names = list(rows.names)
        wanted = self._options.clients
        clients = None if wanted is None else listed_clients(self._database, wanted, self._query, names, call)
        return typed, clients, number

    def _read(self, columns: Sequence[str], call: Call) -> Sequence[Columns]:
        with self._lock:
            typed, clients = self._typed, self._clients
        if typed is None:
            typed, clients, _ = self._described(call)
            with self._lock:
                self._typed, self._clients = typed, clients
        offered = self._offered(typed, clients)
        for name in columns:
            if name not in offered:
                raise ColumnError(
                    self._name,
                    name,
                    "does not exist",
                    hint=f"available: {', '.join(offered)}",
                    problem=Problem.UNKNOWN_COLUMN,
                )
        wanted = [offered[name] for name in dict.fromkeys(columns)]
        with self._database.rows(self._query, call, self._options.batch_rows) as rows:
            pieces, owners = self._batches(rows, wanted, clients)
        by_name = {column.name: column for column in wanted}
        arrays = of_each(by_name, lambda name: _joined(self._name, by_name[name], pieces[name]))
        return [arrays] if clients is None else clients.deal(self._name, arrays, _owners(owners))

    def _profile(self, head: int, call: Call) -> SourceProfile:
        typed, clients, _ = self._described(call)
        offered = self._offered(typed, clients)
        summaries = {name: CellSummary(self._name, column, head) for name, column in offered.items()}
        owners: list[Array] = []
        before = 0
        with self._database.rows(self._query, call, self._options.batch_rows) as rows:
            while batch := rows.next():
                for name, column in offered.items():
                    place = self._place(name, rows)
                    summaries[name].add([row[place] for row in batch], _converting(self._name, column, before))
                if clients is not None:
                    owners.append(keys_as_text([row[self._place(clients.column, rows)] for row in batch]))
                before += len(batch)
        by_client, error = rows_of_clients(self._name, clients, _owners(owners or [keys_as_text([])]))
        shown = zip(*(summary.head for summary in summaries.values()), strict=True)
        profiles = tuple(summary.profile for summary in summaries.values())
        return SourceProfile(self._query, before, profiles, tuple(shown), by_client, error)

    def _batches(
        self, rows: Rows, wanted: Sequence[DeclaredType], clients: Clients | None
    ) -> tuple[dict[str, list[Array]], list[Array]]:
        """Return the arrays of each batch by column, and the client's key of each row.

        Raises:
            ColumnError: columns have a NULL or do not fit; names all of them, so that all batches are read.
        """
        pieces: dict[str, list[Array]] = {column.name: [] for column in wanted}
        errors: dict[str, ColumnError] = {}
        owners: list[Array] = []
        before = 0
        while True:
            batch = rows.next()
            for column in wanted:
                if column.name in errors:
                    continue
                try:
                    array = self._array(column, batch, rows, before)
                except ColumnError as error:
                    errors[column.name] = error
                    pieces.clear()
                else:
                    if not errors:
                        pieces[column.name].append(array)
            if clients is not None:
                owners.append(keys_as_text([row[self._place(clients.column, rows)] for row in batch]))
            before += len(batch)
            if len(batch) < self._options.batch_rows:
                break
        if errors:
            raise ColumnError.joined([errors[column.name] for column in wanted if column.name in errors])
        return pieces, owners

    def _array(self, column: DeclaredType, batch: Sequence[Sequence[object]], rows: Rows, before: int) -> Array:
        """Return a column of a batch; ``before`` is the number of rows before it."""
        place = self._place(column.name, rows)
        cells = [row[place] for row in batch]
        if None in cells:
            what = f"has a NULL {_in_row(before)(cells.index(None))}"
            hint = f"add `where {column.name} is not null` to the query, or coalesce()"
            raise ColumnError(self._name, column.name, what, hint=hint, problem=Problem.NO_VALUE)
        return array_from(self._name, column, cells, _in_row(before))

    def _place(self, name: str, rows: Rows) -> int:
        if name not in rows.names:
            raise ColumnError(
                self._name, name, "no longer exists", hint="start the silo again", problem=Problem.CHANGED
            )
        return rows.names.index(name)

    def _is_client_column(self, name: str) -> bool:
        return name == self._options.clients

    def _offered(self, typed: Mapping[str, DeclaredType], clients: Clients | None) -> dict[str, DeclaredType]:
        client_column = None if clients is None else clients.column
        return {name: column for name, column in typed.items() if name != client_column}

    def _type(self, name: str, at: int, rows: Sequence[Sequence[object]]) -> DeclaredType:
        if not rows:
            return self._given.get(name) or DeclaredType(name, WITHOUT_ROWS)
        typed = self._given.get(name) or infer(self._name, name, [row[at] for row in rows])
        if typed is None:
            seen = f"in its first {len(rows)} rows"
            hint = f'set its type, such as types.{name} = "float64"'
            raise ColumnError(
                self._name,
                name,
                f"has no value {seen} from which to infer its type",
                hint=hint,
                problem=Problem.NO_TYPE,
            )
        return typed

    def _one_select(self) -> str:
        statement = one_select(self._options.query)
        if statement is None:
            what = f"'query' in [data.{self._name}] is not one SELECT"
            raise SettingsError(what, hint="write one statement that yields the rows")
        return statement

    def _url(self, directory: Path) -> str:
        url, file = self._options.url, self._options.url_file
        if (url is None) == (file is None):
            which = "neither" if url is None else "both"
            raise SettingsError(f"[data.{self._name}] has {which} of 'url' and 'url_file'", hint="give one of them")
        if file is None:
            return url or ""
        return read_secret(f"'url_file' in [data.{self._name}]", file, directory, error=SettingsError)


def _converting(source: str, column: DeclaredType, before: int) -> Callable[[Sequence[object], Sequence[int]], Array]:
    return lambda cells, at: array_from(source, column, cells, lambda index: _in_row(before)(at[index]))


def _in_row(before: int) -> Callable[[int], str]:
    return lambda at: f"in row {before + at + 1}"


def _owners(pieces: Sequence[Array]) -> Array:
    # np.concatenate would drop the masks
    return cast("Array", np.ma.concatenate(pieces))  # type: ignore[no-untyped-call]


def _joined(source: str, typed: DeclaredType, pieces: Sequence[Array]) -> Array:
    """Join the arrays of all batches; skip empty ones, whose vectors have no length."""
    filled = [piece for piece in pieces if len(piece)] or list(pieces[:1])
    lengths = {piece.shape[1:] for piece in filled}
    if len(lengths) > 1:
        raise ColumnError(
            source,
            typed.name,
            "has rows of different lengths",
            hint="pad or cut them to one length",
            problem=Problem.RAGGED,
        )
    return np.concatenate(filled)


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
        raise SettingsError(what, hint=f"the columns are {', '.join(columns)}")
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
        raise SettingsError(what, hint=f"call it as the query does, by `as`; the columns are {', '.join(columns)}")
    return found[0]


def one_select(text: str) -> str | None:
    """Return the statement without a final semicolon; callers put it in parentheses, with a newline after it.

    None if the text is not one statement that begins like a SELECT. This check catches mistakes; only a database that
    is told to read only prevents writes.
    """
    tokens = [match for match in _TOKEN.finditer(text) if match["word"] or match["mark"]]
    first = next((match for match in tokens if match["mark"] != "("), None)
    if first is None or (first["word"] or "").lower() not in _FIRST:
        return None
    semicolons = [match.start() for match in tokens if match["mark"] == ";"]
    if not semicolons:
        return text.strip()
    rest = [match for match in tokens if match.start() > semicolons[0] and match["mark"] != ";"]
    return None if rest else text[: semicolons[0]].strip()
