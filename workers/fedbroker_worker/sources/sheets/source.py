"""Columns of a Google spreadsheet, read as a service account with which it is shared."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from gspread.exceptions import NoValidUrlKeyFound
from gspread.utils import extract_id_from_url
from msgspec import Meta

from fedbroker.credentials import read_secret
from fedbroker.wire.messages import Source
from fedbroker_worker.errors import ColumnError, Problem, SettingsError, SourceError
from fedbroker_worker.options import read_table
from fedbroker_worker.sources.clients import Clients, clients_among, keys_as_text
from fedbroker_worker.sources.column_types import DeclaredType, check_names, given_types, of_each
from fedbroker_worker.sources.profile import CellSummary, SourceProfile, rows_of_clients
from fedbroker_worker.sources.sheets.google import GOOGLE, Place, fetch, service_account
from fedbroker_worker.sources.sheets.grid import Grid, grid_of
from fedbroker_worker.threads import CancellableCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from google.oauth2.service_account import Credentials

    from fedbroker_worker.sources.arrays import Array
    from fedbroker_worker.sources.protocol import Columns
    from fedbroker_worker.threads import Call

__all__ = ["SheetsOptions", "SheetsSource"]

_GID: Final = re.compile(r"[#?&]gid=(\d+)")
_KEY: Final = "its URL, or its key: what is between /d/ and /edit there"


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetsOptions:
    """The keys of a ``[data.NAME]`` with ``source = "sheets"``.

    Attributes:
        spreadsheet: its URL or key; not in the ``repr``, because it is enough to read a spreadsheet shared by link.
        service_account: the JSON file of a service account's key: a systemd credential or a path.
        worksheet: its title; None for the worksheet that the URL names (``gid=…``), else the first one.
        range: the range in A1 notation; None for the whole worksheet.
        header: the row of the range that names the columns, from 1; 0 for no header: the letters are the names.
        columns: the columns to offer; None for all that have a name.
        types: types of columns that the cells do not show, such as dates.
        nulls: cells without a value are an error (``error``), their rows are left out (``drop``), or they become NaN
            (``nan``).
        clients: a column; rows with the same value in it belong to one client.
        ttl: seconds for which the cells that were read are used again.
        retry_seconds: how long requests are repeated when Google is busy or cannot be reached.
        endpoint: the URL of the Sheets API, for networks that reach it at another address.
    """

    spreadsheet: Annotated[str, Meta(description=_KEY)] = field(repr=False)
    service_account: Annotated[str, Meta(description="the JSON file of a service account's key")]
    worksheet: Annotated[str | None, Meta(description="a worksheet's title")] = None
    range: Annotated[str | None, Meta(description='a range, such as "A1:D200"')] = None
    header: Annotated[int, Meta(ge=0, description="the number of the range's row that names the columns")] = 1
    columns: Annotated[list[str] | None, Meta(description="a list of the columns' names")] = None
    types: Annotated[dict[str, str], Meta(description='types by column, such as {day = "date"}')] = field(
        default_factory=dict[str, str]
    )
    nulls: Literal["error", "drop", "nan"] = "error"
    clients: Annotated[str | None, Meta(description="a column")] = None
    ttl: Annotated[float, Meta(ge=0, description="a number of seconds")] = 60.0
    retry_seconds: Annotated[float, Meta(ge=0, le=3600, description="seconds, up to 3600")] = 60.0
    endpoint: Annotated[str, Meta(description="a URL", pattern="^https?://")] = GOOGLE


class SheetsSource:
    """The rows of one range of a spreadsheet; see :class:`~fedbroker_worker.sources.protocol.DataSource`.

    Numbers are ``float64``, truth values ``bool``, all other values text, unless ``types`` says otherwise. ``date``
    becomes ``int32``, days since 1970; ``datetime`` becomes ``int64``, microseconds since 1970 in the sheet's own time.
    Rows without any value are left out. Types and clients are those of the last ``describe``.

    Args:
        name: the source's name in the settings.
        options: see :class:`SheetsOptions`.
        directory: the directory to which relative paths are relative.

    Raises:
        SettingsError: an option is wrong.
    """

    def __init__(self, name: str, options: Mapping[str, Any], directory: Path) -> None:
        text = [key for key, value in options.items() if isinstance(value, str)]
        self._options = read_table(SheetsOptions, options, label=lambda key: f"{key!r} in [data.{name}]", lenient=text)
        self._name = name
        self._directory = directory.absolute()
        self._given = given_types(name, self._options.types)
        self._place = Place(
            source=name,
            key=self._key(),
            worksheet=self._worksheet(),
            range=self._options.range,
            endpoint=self._options.endpoint,
            patience=self._options.retry_seconds,
        )
        self._calls = CancellableCalls(name)
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        self._cached: tuple[float, Grid] | None = None
        self._typed: dict[str, DeclaredType] | None = None
        self._clients: Clients | None = None

    def describe(self) -> Source:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        grid = self._calls.run(self._grid)
        typed, clients = self._inspect(grid)
        with self._lock:
            # Without rows, the types are only placeholders: the next read infers them.
            self._typed, self._clients = typed if grid.lines else None, clients
        number = 1 if clients is None else len(clients.keys)
        return Source(
            tuple(column.announced for column in typed.values()), rows=len(self._rows(grid, typed)), clients=number
        )

    def count(self) -> int:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        grid = self._calls.run(self._grid)
        with self._lock:
            typed = self._typed
        return len(self._rows(grid, self._offered(grid) if typed is None else typed))

    def read(self, columns: Sequence[str]) -> Sequence[Columns]:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        return self._calls.run(lambda call: self._read(columns, self._grid(call)), reading=True)

    def profile(self, head: int) -> SourceProfile:
        """See :class:`~fedbroker_worker.sources.profile.ProfiledSource`."""
        grid = self._calls.run(self._grid, reading=True)
        typed, clients = self._inspect(grid)
        rows = self._rows(grid, typed)
        summaries: list[CellSummary] = []
        for column in typed.values():
            summary = CellSummary(self._name, column, head)
            cells = grid.shown(column, rows)
            if self._options.nulls == "nan" and "float" in column.type_name:
                cells = [float("nan") if cell is None else cell for cell in cells]
            summary.add(cells, _converting(grid, column, rows))
            summaries.append(summary)
        owners = [] if clients is None else self._keys(grid, clients.column, rows)
        by_client, error = rows_of_clients(self._name, clients, keys_as_text(owners))
        worksheet = self._worksheet()
        query = "the first worksheet" if worksheet is None else f"worksheet {worksheet}"
        query += f", range {self._options.range}" if self._options.range else ""
        shown = tuple(zip(*(summary.head for summary in summaries), strict=True))
        return SourceProfile(query, len(rows), tuple(one.profile for one in summaries), shown, by_client, error)

    def interrupt(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        self._calls.interrupt()

    def close(self) -> None:
        """See :class:`~fedbroker_worker.sources.protocol.DataSource`."""
        self._calls.close()

    def _read(self, columns: Sequence[str], grid: Grid) -> Sequence[Columns]:
        with self._lock:
            if self._typed is None:
                self._typed, self._clients = self._inspect(grid)
            typed, clients = self._typed, self._clients
        rows = self._rows(grid, typed)
        wanted = {name: self._column(name, typed) for name in columns}
        nan = self._options.nulls == "nan"
        arrays = of_each(wanted, lambda name: grid.array(wanted[name], rows, nan=nan))
        if clients is None:
            return [arrays]
        owners = keys_as_text(self._keys(grid, clients.column, rows))
        return clients.deal(self._name, arrays, owners)

    def _inspect(self, grid: Grid) -> tuple[dict[str, DeclaredType], Clients | None]:
        """Return the columns' types, and the clients."""
        typed = of_each(self._offered(grid), lambda name: self._given.get(name) or grid.infer(name))
        column = self._options.clients
        if column is None:
            return typed, None
        if not typed:
            what = f"'clients' in [data.{self._name}] takes {column!r}, the only column"
            raise SettingsError(what, hint="name what the clients compute with in 'columns'")
        return typed, clients_among(column, self._keys(grid, column, self._rows(grid, typed)))

    def _keys(self, grid: Grid, column: str, rows: Sequence[int]) -> list[object]:
        keys = [_as_shown(cell) for cell in grid.chosen(column, rows)]
        if None in keys:
            what = "has cells without value, which are no client's key"
            raise ColumnError(
                self._name, column, what, hint='fill them in, or set nulls = "drop"', problem=Problem.NOT_KEYS
            )
        return keys

    def _offered(self, grid: Grid) -> list[str]:
        """Return the columns to announce; raise SettingsError if an option names a column that does not exist."""
        names, options = list(grid.cells), self._options
        check_names(self._name, "clients", [options.clients] if options.clients else [], names)
        check_names(self._name, "columns", options.columns or [], names)
        check_names(self._name, "types", options.types, names)
        chosen = names if options.columns is None else list(dict.fromkeys(options.columns))
        # A 'clients' column that 'columns' names is offered, too, like a column that a query selects twice.
        return [name for name in chosen if name != options.clients or options.columns is not None]

    def _rows(self, grid: Grid, offered: Iterable[str]) -> list[int]:
        """Return the rows in use, which are the same for every selection of columns."""
        needed = [*offered, self._options.clients] if self._options.clients else list(offered)
        return grid.complete(needed if self._options.nulls == "drop" else [])

    def _column(self, name: str, typed: Mapping[str, DeclaredType]) -> DeclaredType:
        if name not in typed:
            raise ColumnError(
                self._name,
                name,
                "does not exist",
                hint=f"available: {', '.join(typed)}",
                problem=Problem.UNKNOWN_COLUMN,
            )
        return typed[name]

    def _grid(self, call: Call) -> Grid:
        """Return the sheet's grid, from the cache if it is not older than ``ttl``."""
        now = time.monotonic()
        with self._lock:
            cached = self._cached
        if cached is not None and now < cached[0] + self._options.ttl:
            return cached[1]
        try:
            found = fetch(self._place, self._service_account(), call)
        except SourceError:
            with self._lock:
                self._credentials = None  # the file may hold a new key by the next read
            raise
        grid = grid_of(self._name, found.rows, found.corner, self._options.header)
        with self._lock:
            self._cached = now, grid
        return grid

    def _service_account(self) -> Credentials:
        with self._lock:
            if self._credentials is None:
                label = f"'service_account' in [data.{self._name}]"
                text = read_secret(label, self._options.service_account, self._directory, error=SettingsError)
                self._credentials = service_account(label, text)
            return self._credentials

    def _worksheet(self) -> str | int | None:
        match = _GID.search(self._options.spreadsheet)
        return self._options.worksheet or (int(match[1]) if match else None)

    def _key(self) -> str:
        given = self._options.spreadsheet.strip()
        if "/" not in given and given:
            return given
        try:
            return extract_id_from_url(given)
        except NoValidUrlKeyFound:
            raise SettingsError(
                f"'spreadsheet' in [data.{self._name}] is no spreadsheet", hint=f"it is {_KEY}"
            ) from None


def _converting(
    grid: Grid, column: DeclaredType, rows: Sequence[int]
) -> Callable[[Sequence[object], Sequence[int]], Array]:
    return lambda _, at: grid.array(column, [rows[index] for index in at], nan=False)


def _as_shown(cell: object) -> object:
    """Return a number as the sheet shows it: 7, not 7.0."""
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
