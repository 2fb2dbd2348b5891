"""Summaries of a source's data for the silo's own terminal: types, missing values, ranges and first rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from fedbroker_worker.errors import ColumnError, Problem, SourceError
from fedbroker_worker.sources.column_types import DATE, DATETIME, DeclaredType, cast_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedbroker.wire.messages import Column, Source
    from fedbroker_worker.sources.arrays import Array
    from fedbroker_worker.sources.clients import Clients
    from fedbroker_worker.sources.protocol import DataSource

__all__ = [
    "CellSummary",
    "ColumnProfile",
    "ProfiledSource",
    "SourceProfile",
    "profile_by_reading",
    "rows_of_clients",
    "type_text",
]


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """The summary of one column, over all clients. It quotes data.

    Attributes:
        name: its name.
        type_text: the announced type, with the SQL type of a point in time: ``int32 (date)``.
        nulls: the number of rows without a value; None if unknown.
        least: the least value as text; empty if unknown or not ordered.
        greatest: the greatest value as text; empty if unknown or not ordered.
        error: why computations cannot read the column, NULLs aside; None if they can.
    """

    name: str
    type_text: str
    nulls: int | None = None
    least: str = ""
    greatest: str = ""
    error: SourceError | None = None


@dataclass(frozen=True, slots=True)
class SourceProfile:
    """The summary of a source. It quotes data.

    Attributes:
        query: the SQL that yields the rows, or another description of their origin; empty if unknown.
        rows: the number of rows of all clients.
        columns: the offered columns.
        head: the first rows, with a cell for each of ``columns``; None for a missing value.
        by_client: the number of rows of each client; None for a source of one client.
        error: why the rows cannot be dealt to clients; None if they can.
    """

    query: str
    rows: int
    columns: tuple[ColumnProfile, ...]
    head: tuple[tuple[str | None, ...], ...]
    by_client: tuple[int, ...] | None = None
    error: SourceError | None = None


@runtime_checkable
class ProfiledSource(Protocol):
    """A source that can summarise its data itself. Others are read column by column."""

    def profile(self, head: int) -> SourceProfile:
        """Read all rows and summarise them; ``interrupt`` ends it as it ends ``read``.

        Args:
            head: the number of first rows to return.

        Raises:
            SourceError: the source cannot be read, or was interrupted.
        """
        ...


class CellSummary:
    """The summary of a column's cells, which come in batches.

    Args:
        source: the source's name, for errors.
        typed: the column.
        head: the number of first cells to keep as text.
    """

    def __init__(self, source: str, typed: DeclaredType, head: int) -> None:
        self._source = source
        self._typed = typed
        self._room = head
        self._nulls = 0
        self._ordered = not typed.shape
        self._bounds: list[Any] = []
        self._shapes: set[tuple[int, ...]] = set()
        self._error: SourceError | None = None
        self.head: list[str | None] = []

    def add(self, cells: Sequence[object], convert: Callable[[Sequence[object], Sequence[int]], Array]) -> None:
        """Add a batch of cells; None is a missing value.

        Args:
            cells: one for each row.
            convert: converts the cells that have a value as a read would; gets these cells and their indices.
        """
        self.head += [None if cell is None else cell_text(cell) for cell in cells[: self._room - len(self.head)]]
        at = [index for index, cell in enumerate(cells) if cell is not None]
        present: list[Any] = [cells[index] for index in at]
        self._nulls += len(cells) - len(present)
        if not present:
            return
        if self._ordered:
            try:
                self._bounds = [min([*self._bounds[:1], *present]), max([*self._bounds[1:], *present])]
            except TypeError:
                self._ordered, self._bounds = False, []
        if self._error is not None:
            return
        try:
            self._shapes.add(convert(present, at).shape[1:])
            if len(self._shapes) > 1:
                what, hint = "has rows of different lengths", "pad or cut them to one length"
                raise ColumnError(self._source, self._typed.name, what, hint=hint, problem=Problem.RAGGED)
        except SourceError as error:
            self._error = error

    @property
    def profile(self) -> ColumnProfile:
        """The summary so far."""
        least, greatest = map(cell_text, self._bounds) if self._bounds else ("", "")
        text = type_text(self._typed.announced, self._typed.type_name)
        return ColumnProfile(self._typed.name, text, self._nulls, least, greatest, self._error)


def cell_text(cell: object) -> str:
    """Return a cell as text."""
    return bytes(cell).decode(errors="backslashreplace") if isinstance(cell, bytes | bytearray) else str(cell)


def type_text(column: Column, origin: str = "") -> str:
    """Return an announced type for people.

    Args:
        column: the column as announced.
        origin: the type of its cells in the source; shown if it is a date or a point in time.
    """
    sizes = ",".join("?" if size is None else str(size) for size in column.shape)
    shown = f"{column.dtype}[{sizes}]" if column.shape else column.dtype
    return f"{shown} ({origin})" if origin in (DATE, DATETIME) else shown


def rows_of_clients(
    source: str, clients: Clients | None, keys: Array
) -> tuple[tuple[int, ...] | None, SourceError | None]:
    """Return the number of rows of each client, or the error for which they cannot be dealt.

    Args:
        source: the source's name, for errors.
        clients: the announced clients; None for a source of one client.
        keys: the key of each row as text, as for :meth:`~fedbroker_worker.sources.clients.Clients.deal`.
    """
    if clients is None:
        return None, None
    if not clients.keys:  # such a source is never read
        return (), None
    try:
        dealt = clients.deal(source, {"": np.arange(len(keys))}, keys)
    except SourceError as error:
        return None, error
    return tuple(len(rows[""]) for rows in dealt), None


def profile_by_reading(name: str, source: DataSource, announced: Source, head: int, query: str = "") -> SourceProfile:
    """Summarise a source by reading its columns one after another, so that each column's error is found.

    Args:
        name: the source's name, for errors.
        source: the source.
        announced: its description.
        head: the number of first rows to return.
        query: a description of the origin of the rows.

    Raises:
        SourceError: the source cannot be read.
    """
    profiles: list[ColumnProfile] = []
    heads: list[list[str | None]] = []
    lengths: tuple[int, ...] = ()
    for column in announced.columns:
        try:
            read: Sequence[Mapping[str, Array]] = source.read([column.name])
            for client in read:
                cast_to(column.dtype, client[column.name], source=name, column=column.name)
        except ColumnError as error:
            profiles.append(ColumnProfile(column.name, type_text(column), error=error))
            heads.append([])
            continue
        arrays = [client[column.name] for client in read]
        lengths = tuple(map(len, arrays))
        least, greatest = _range(arrays) if not column.shape else ("", "")
        profiles.append(ColumnProfile(column.name, type_text(column), 0, least, greatest))
        first = [cell for array in arrays for cell in array[:head].tolist()]
        heads.append([cell_text(cell) for cell in first[:head]])
    shown = max(map(len, heads), default=0)
    rows = tuple(tuple(cells[at] if at < len(cells) else None for cells in heads) for at in range(shown))
    return SourceProfile(
        query,
        sum(lengths) if lengths else announced.rows or 0,
        tuple(profiles),
        rows,
        None if announced.clients == 1 else lengths,
    )


def _range(arrays: Sequence[Array]) -> tuple[str, str]:
    filled: list[Any] = [array for array in arrays if len(array)]
    if not filled:
        return "", ""
    try:
        return cell_text(min(array.min() for array in filled)), cell_text(max(array.max() for array in filled))
    except TypeError:  # text and bytes together, or complex numbers
        return "", ""
