"""A spreadsheet's cells as columns: the header row, the rows with values, and the place of each cell.

Plain functions.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker_worker.errors import ColumnError, Problem, SourceError
from fedbroker_worker.sources.arrays import array_from, infer
from fedbroker_worker.sources.column_types import DATE, DATETIME, WITHOUT_ROWS, DeclaredType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedbroker_worker.sources.arrays import Array

__all__ = ["Grid", "grid_of"]

_FAILED: Final = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", "#ERROR!", "Loading...")
"""Contents of a cell whose formula has no value."""

_DAY_ZERO: Final = datetime.datetime(1899, 12, 30)
"""The day 0 of spreadsheets; the time of day is in the sheet's own time zone."""

_DAY_MILLISECONDS: Final = 86_400_000

_ALPHABET: Final = 26


@dataclass(frozen=True, slots=True)
class Grid:
    """The rows under a header; a cell without a value is None, and a row without any value is left out.

    Attributes:
        source: the source's name, for errors.
        places: the number in the sheet of each named column; A is 1.
        lines: the number in the sheet of each row; the first is 1.
        cells: the cells of each column.
    """

    source: str
    places: dict[str, int]
    lines: list[int]
    cells: dict[str, list[object]]

    def infer(self, name: str) -> DeclaredType:
        """Infer a column's type; numbers are ``float64``, as in every spreadsheet.

        Raises:
            ColumnError: the column is empty, or its cells are of different kinds.
        """
        if not self.lines:
            return DeclaredType(name, WITHOUT_ROWS)
        values = [float(cell) if type(cell) is int else cell for cell in self.cells[name]]
        kinds = [type(value) for value in values if value is not None]
        if len(set(kinds)) > 1:
            rarest = min(sorted(set(kinds), key=lambda kind: kind.__name__), key=kinds.count)
            at = next(at for at, value in enumerate(values) if type(value) is rarest)
            what = f"holds cells of different kinds: see {self.cell_name(name, at)}"
            raise ColumnError(
                self.source, name, what, hint=f'correct it, or set types.{name} = "str"', problem=Problem.MIXED
            )
        typed = infer(self.source, name, values)
        if typed is None:
            hint = f'set its type, such as types.{name} = "float64", or leave it out of columns'
            raise ColumnError(
                self.source, name, "has no value from which to infer its type", hint=hint, problem=Problem.NO_TYPE
            )
        return typed

    def array(self, typed: DeclaredType, rows: Sequence[int], *, nan: bool) -> Array:
        """Return a column's cells as one array.

        Args:
            typed: the column and its type.
            rows: the requested rows, by their index in ``lines``.
            nan: in a column of floats, a cell without a value becomes NaN.

        Raises:
            ColumnError: a cell has no value, or a value of another kind.
        """
        cells = self.chosen(typed.name, rows)
        if nan and "float" in typed.type_name:
            cells = [float("nan") if cell is None else cell for cell in cells]
        elif None in cells:
            empty = [row for row, cell in zip(rows, cells, strict=True) if cell is None]
            more = f" and {len(empty) - 1} more" * (len(empty) > 1)
            what = f"has no value in cell {self.cell_name(typed.name, empty[0])}{more}"
            raise ColumnError(
                self.source, typed.name, what, hint='fill it in, or set nulls = "drop"', problem=Problem.NO_VALUE
            )
        return array_from(
            self.source, typed, _moments(typed, cells), lambda at: f"in cell {self.cell_name(typed.name, rows[at])}"
        )

    def chosen(self, name: str, rows: Sequence[int]) -> list[object]:
        """Return the cells of a column in these rows.

        Raises:
            ColumnError: the column does not exist.
        """
        own = self._own(name)
        return [own[at] for at in rows]

    def shown(self, typed: DeclaredType, rows: Sequence[int]) -> list[object]:
        """Return the cells of a column in these rows, points in time converted; None for a missing value."""
        return _moments(typed, self.chosen(typed.name, rows))

    def _own(self, name: str) -> list[object]:
        if name not in self.cells:
            what = "is not in the sheet any more"
            raise ColumnError(
                self.source,
                name,
                what,
                hint="name it there as before, or start the silo again",
                problem=Problem.CHANGED,
            )
        return self.cells[name]

    def complete(self, names: Sequence[str]) -> list[int]:
        """Return the rows that have a value in each of these columns."""
        columns = [self._own(name) for name in names]
        return [at for at in range(len(self.lines)) if all(column[at] is not None for column in columns)]

    def cell_name(self, name: str, at: int) -> str:
        """Return a cell's name in the sheet, such as B7."""
        return f"{_letters(self.places[name])}{self.lines[at]}"


def grid_of(source: str, rows: Sequence[Sequence[object]], corner: tuple[int, int], header: int) -> Grid:
    """Return the grid of a range of a sheet.

    Args:
        source: the source's name, for errors.
        rows: the rows of cells, each without the empty cells at its end; an empty cell is ``""``.
        corner: row and column in the sheet of the first cell.
        header: the row of the range that names the columns, from 1; columns without a name are left out. With 0, the
            range has no header, and the columns' letters are their names.

    Raises:
        SourceError: the header row does not exist, or names no column.
        ColumnError: two columns have one name, or a formula has no value.
    """
    top, left = corner
    names = _names(source, rows, corner, header)
    body = [(top + at, row) for at, row in enumerate(rows) if at >= header and any(cell != "" for cell in row)]
    places = {name: left + at for at, name in names.items()}
    columns = {
        name: [row[at] if at < len(row) and row[at] != "" else None for _, row in body] for at, name in names.items()
    }
    grid = Grid(source, places, [line for line, _ in body], columns)
    for name, cells in columns.items():
        for at, cell in enumerate(cells):
            if isinstance(cell, str) and cell in _FAILED:
                what = f"has a formula without value in cell {grid.cell_name(name, at)}: {cell}"
                raise ColumnError(source, name, what, hint="correct the formula", problem=Problem.NO_VALUE)
    return grid


def _names(source: str, rows: Sequence[Sequence[object]], corner: tuple[int, int], header: int) -> dict[int, str]:
    """Return the name of each named column, by its index in a row."""
    top, left = corner
    if header == 0:
        return {at: _letters(left + at) for at in range(max(map(len, rows), default=0))}
    cells = rows[header - 1] if len(rows) >= header else ()
    names = {at: str(cell).strip() for at, cell in enumerate(cells) if str(cell).strip()}
    if not names:
        what = f"row {top + header - 1} of the sheet names no columns"
        raise SourceError(
            source, what, hint="correct 'header' or 'range', or write names into that row", problem=Problem.NO_COLUMNS
        )
    places: dict[str, int] = {}
    for at, name in names.items():
        if name in places:
            both = f"{_letters(left + places[name])} and {_letters(left + at)}"
            raise ColumnError(
                source, name, f"occurs twice in the header, as {both}", hint="rename one of them", problem=Problem.TWICE
            )
        places[name] = at
    return names


def _letters(number: int) -> str:
    """Return a spreadsheet's letters for a column: A to Z, AA, AB and so on."""
    letters = ""
    while number:
        number, rest = divmod(number - 1, _ALPHABET)
        letters = chr(ord("A") + rest) + letters
    return letters


def _moments(typed: DeclaredType, cells: list[object]) -> list[object]:
    """Convert a column's numbers of days to points in time if its type asks for that."""
    if typed.type_name not in (DATE, DATETIME):
        return cells
    return [_moment(cell, whole=typed.type_name == DATE) for cell in cells]


def _moment(cell: object, *, whole: bool) -> object:
    """Convert a spreadsheet's number of days to a point in time; with ``whole``, to a date if it has no time of day."""
    if not isinstance(cell, float | int) or isinstance(cell, bool):
        return cell
    try:
        # Rounded to the millisecond: a double of days is no more exact.
        moment = _DAY_ZERO + datetime.timedelta(milliseconds=round(cell * _DAY_MILLISECONDS))
    except OverflowError:
        return cell
    return moment.date() if whole and float(cell).is_integer() else moment
