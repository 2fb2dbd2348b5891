"""Convert the cells of a column to one plain array: without NULL, ragged rows or a mask; no value changes silently.

Databases that speak numpy return masked arrays (:func:`array_of`), other drivers and spreadsheets Python values
(:func:`array_from`). Errors name the place and the kind of a wrong value, never the value itself.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from fedbroker_worker.errors import ColumnError, Problem
from fedbroker_worker.sources.column_types import DATE, DATETIME, DeclaredType, cast_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fedbroker.wire.messages import Column

__all__ = ["Array", "array_from", "array_of", "infer", "vectors_of"]

Array = npt.NDArray[Any]

_PAD_IN_QUERY: Final = "pad or cut them in the query to one length"


def array_of(source: str, column: Column, cells: Array) -> Array:
    """Return a column's cells as one array.

    Args:
        source: the source's name, for errors.
        column: the column as announced.
        cells: one for each row; masked if it is NULL. A cell of a vector column is an array itself.

    Returns:
        Shape ``(rows, *column.shape)`` of ``column.dtype``; text is an object array of ``str`` or ``bytes``.

    Raises:
        ColumnError: the column has a NULL, or rows of different lengths.
    """
    flat = _without_null(source, column, cells)
    if column.shape:
        flat = _stacked(source, column, flat, column.shape)
    return _as_dtype(column, flat)


def vectors_of(source: str, column: Column, lengths: Array, elements: Array) -> Array:
    """Return one array of a column of vectors whose elements were selected one after another.

    Args:
        source: the source's name, for errors.
        column: the column as announced; its shape has one dimension.
        lengths: the length of each row's vector; masked if the vector is NULL.
        elements: the elements of all rows, one after another; masked if an element is NULL.

    Returns:
        An array as from :func:`array_of`.

    Raises:
        ColumnError: the column has a NULL, or rows of different lengths.
    """
    length = _same(source, column, _without_null(source, column, lengths).tolist(), column.shape[0] or 0)
    return _as_dtype(column, _without_null(source, column, elements)).reshape(len(lengths), length)


def _without_null(source: str, column: Column, cells: Array) -> Array:
    nulls = int(np.count_nonzero(cast("Any", cells).mask)) if isinstance(cells, np.ma.MaskedArray) else 0
    if nulls:
        raise ColumnError(
            source,
            column.name,
            f"has {nulls} NULL{'s' * (nulls > 1)} among {cells.size} values",
            hint=f"add `where {column.name} is not null` to the query, or coalesce()"
            if not column.shape
            else "replace them in the query, or leave those rows out",
            problem=Problem.NO_VALUE,
        )
    return np.asarray(cells)


def _stacked(source: str, column: Column, cells: Array, shape: tuple[int | None, ...]) -> Array:
    """Stack cells that are arrays along a new first dimension."""
    if not len(cells):
        return np.empty((0, *(size or 0 for size in shape)), dtype=object if column.dtype == "str" else column.dtype)
    length = _same(source, column, map(len, cells))
    masked = np.ma.MaskedArray in set(map(type, cells))
    # np.concatenate would drop the masks
    joined = cast("Array", np.ma.concatenate(cells) if masked else np.concatenate(cells))  # type: ignore[no-untyped-call]
    inner = _without_null(source, column, joined)
    if len(shape) > 1:
        inner = _stacked(source, column, inner, shape[1:])
    return inner.reshape(len(cells), length, *inner.shape[1:])


def _same(source: str, column: Column, lengths: Iterable[int], of_none: int = 0) -> int:
    """Return the length that all rows have; ``of_none`` without any row."""
    found = set(lengths)
    if len(found) > 1:
        what = f"has rows of different lengths, from {min(found)} to {max(found)}"
        raise ColumnError(source, column.name, what, hint=_PAD_IN_QUERY, problem=Problem.RAGGED)
    return found.pop() if found else of_none


def _as_dtype(column: Column, cells: Array) -> Array:
    return _text_array(cells) if column.dtype == "str" else cells.astype(column.dtype, copy=False)


def _text_array(cells: Array) -> Array:
    """Return text as ``str`` or ``bytes``: a database may return a BLOB as a bytearray."""
    flat = [bytes(cast("bytes", cell)) if isinstance(cell, bytearray | memoryview) else cell for cell in cells.ravel()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(cells.shape)


_DAY_ONE: Final = datetime.date(1970, 1, 1)
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)

_CELL_TYPES: Final[dict[type[Any], str]] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    decimal.Decimal: "float64",
    str: "str",
    bytes: "str",
    bytearray: "str",
    memoryview: "str",
    uuid.UUID: "str",
    datetime.datetime: DATETIME,
    datetime.date: DATE,
}
"""The type of a column, by the Python type of its cells."""

_NUMBERS: Final = {"int64", "float64"}

_FIT: Final = "correct it, or set its type: types.{} = "

_PAD: Final = "pad or cut them to one length"


def infer(source: str, name: str, cells: Iterable[object]) -> DeclaredType | None:
    """Infer a column's type from its cells; None if all are NULL.

    Raises:
        ColumnError: the cells are of different kinds, or of a kind that has no counterpart.
    """
    kinds = set(map(type, cells)) - {type(None)}
    if kinds and kinds <= {list, tuple}:
        nested = (cell for cell in cells if cell is not None)
        inner = infer(source, name, list(chain.from_iterable(nested)))  # type: ignore[arg-type]
        return None if inner is None else DeclaredType(name, inner.type_name, (None, *inner.shape))
    type_names = {_type_name(source, name, kind) for kind in kinds}
    if not type_names:
        return None
    if len(type_names) > 1:
        if type_names != _NUMBERS:
            what = f"holds {' and '.join(sorted(type_names))}"
            raise ColumnError(source, name, what, hint=f'set its type: types.{name} = "str"', problem=Problem.MIXED)
        return DeclaredType(name, "float64")
    return DeclaredType(name, type_names.pop())


def array_from(source: str, typed: DeclaredType, cells: Sequence[object], place: Callable[[int], str]) -> Array:
    """Return a column's cells as one array.

    Args:
        source: the source's name, for errors.
        typed: the type of the array.
        cells: one for each row.
        place: returns the place of the cell at an index, for errors, such as ``"in row 3"``.

    Returns:
        Shape ``(rows, *typed.shape)``; text is an object array of ``str`` or ``bytes``.

    Raises:
        ColumnError: the column has a NULL, a cell of another kind, a number that the dtype cannot hold, or rows of
            different lengths.
    """
    kinds = set(map(type, cells))
    if type(None) in kinds:
        raise ColumnError(
            source,
            typed.name,
            f"has a NULL {place(cells.index(None))}",
            hint="replace it, or leave it out",
            problem=Problem.NO_VALUE,
        )
    if typed.shape:
        return _vectors(source, typed, cells, place)
    if typed.text:
        return _objects([cell if isinstance(cell, str) else _text(cell) for cell in cells])
    if kinds <= _PLAIN.get(typed.type_name, set()):
        plain: list[Any] = list(cells)
    else:
        plain = [_plain(source, typed, cell, at, place) for at, cell in enumerate(cells)]
    return _numbers(source, typed, plain)


_PLAIN: Final[dict[str, set[type[Any]]]] = {
    "bool": {bool},
    **{f"{sign}int{bits}": {int} for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": {int, float} for bits in (16, 32, 64)},
}
"""Types of cells that numpy itself converts to a dtype without changing a value: they need no check one by one."""


def _type_name(source: str, name: str, kind: type[object]) -> str:
    type_name = _CELL_TYPES.get(kind) or next(
        (type_name for base, type_name in _CELL_TYPES.items() if issubclass(kind, base)), None
    )
    if type_name is None:
        what = f"holds values of the type {kind.__name__}, which is not supported"
        raise ColumnError(
            source, name, what, hint="cast it in the query, or leave it out", problem=Problem.NO_COUNTERPART
        )
    return type_name


def _numbers(source: str, typed: DeclaredType, plain: list[Any]) -> Array:
    """Return an array of numbers or truth values; points in time are already numbers here."""
    dtype = typed.announced.dtype
    wide = {"f": "float64", "b": "bool", "u": "uint64", "i": "int64"}[np.dtype(dtype).kind]
    try:
        if wide == "uint64" and min(plain, default=0) < 0:
            raise OverflowError  # numpy would wrap around instead
        values: Array = np.array(plain, dtype=wide)
    except OverflowError:
        what = f"holds a number that {dtype} cannot hold"
        raise ColumnError(
            source, typed.name, what, hint=f'types.{typed.name} = "float64" would', problem=Problem.OUT_OF_RANGE
        ) from None
    return cast_to(dtype, values, source=source, column=typed.name)


def _vectors(source: str, typed: DeclaredType, cells: Sequence[object], place: Callable[[int], str]) -> Array:
    """Stack cells that are lists along a new first dimension."""
    for at, cell in enumerate(cells):
        if not isinstance(cell, list | tuple):
            raise _misfit(source, typed, cell, at, place)
    rows: list[Sequence[object]] = list(cells)  # type: ignore[arg-type]
    size, lengths = typed.shape[0], set(map(len, rows))
    if size is not None and lengths - {size}:
        odd = next(length for length in lengths if length != size)
        raise ColumnError(
            source, typed.name, f"has a row of length {odd} where each has {size}", hint=_PAD, problem=Problem.RAGGED
        )
    if len(lengths) > 1:
        what = f"has rows of different lengths, from {min(lengths)} to {max(lengths)}"
        raise ColumnError(source, typed.name, what, hint=_PAD, problem=Problem.RAGGED)
    length = lengths.pop() if lengths else size or 0
    flat = list(chain.from_iterable(rows))
    inner = array_from(source, typed.inner, flat, lambda at: place(at // (length or 1)))
    return inner.reshape(len(rows), length, *inner.shape[1:])


def _plain(source: str, typed: DeclaredType, cell: object, at: int, place: Callable[[int], str]) -> object:
    """Return a cell as a number or truth value of the column's type."""
    found: object = None
    match typed.type_name:
        case "date":
            found = _days(cell)
        case "datetime":
            found = _microseconds(cell)
        case "bool":
            found = bool(cell) if isinstance(cell, int | float) and cell in (0, 1) else None
        case type_name if "int" in type_name:
            found = _whole(cell)
        case _:
            found = float(cell) if isinstance(cell, int | float | decimal.Decimal) and type(cell) is not bool else None
    if found is None:
        raise _misfit(source, typed, cell, at, place)
    return found


def _whole(cell: object) -> int | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float | decimal.Decimal):
        return None
    try:
        whole = int(cell)
    except (OverflowError, ValueError):  # infinite, or not a number
        return None
    return whole if whole == cell else None


def _days(cell: object) -> int | None:
    """Return the days since 1970 of a date, or of its ISO 8601 text; None for any other value."""
    day = _parsed(datetime.date.fromisoformat, cell) if isinstance(cell, str) else cell
    if isinstance(day, datetime.datetime) or not isinstance(day, datetime.date):
        return None
    return (day - _DAY_ONE).days


def _microseconds(cell: object) -> int | None:
    """Return the microseconds since 1970 of a point in time, or of its ISO 8601 text; UTC without a time zone."""
    moment = _parsed(datetime.datetime.fromisoformat, cell) if isinstance(cell, str) else cell
    if not isinstance(moment, datetime.datetime):
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
    return (aware - _EPOCH) // _MICROSECOND


def _parsed(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text)
    except ValueError:
        return None


def _text(cell: object) -> str | bytes:
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cast("bytes", cell))
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(cell)


def _objects(cells: Sequence[object]) -> Array:
    result = np.empty(len(cells), dtype=object)
    result[:] = cells
    return result


def _misfit(source: str, typed: DeclaredType, cell: object, at: int, place: Callable[[int], str]) -> ColumnError:
    """Return the error for a cell of the wrong type; it names the cell's type, not its value."""
    kind = type(cell)
    type_name = "text" if issubclass(kind, str | bytes) else _CELL_TYPES.get(kind, kind.__name__)
    wider = type_name == DATETIME or (type_name == "float64" and "int" in typed.type_name)
    fit = type_name if wider else "str"
    what = f"is {typed}, but holds {type_name} {place(at)}"
    return ColumnError(source, typed.name, what, hint=f'{_FIT.format(typed.name)}"{fit}"', problem=Problem.MISFIT)
