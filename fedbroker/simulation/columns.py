"""Convert data frames and arrays to columns that silos can read: plain numpy arrays without missing values.

The libraries of data frames are not imported: an object of one of them comes with its own methods.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from fedbroker.errors import UsageError

__all__ = ["Array", "Columns", "columns_of", "is_frame"]

Array: TypeAlias = npt.NDArray[Any]
Columns: TypeAlias = dict[str, Array]

_FILL: Final = "fill them, or leave these rows out"
_NUMBER_BYTES: Final = 8  # of the largest number that silos know; numpy has larger ones


def is_frame(value: object) -> bool:
    """Return whether the value is a data frame of pandas or polars, or a table of pyarrow."""
    # Of the class: a lazy frame warns about the cost of its own columns' names.
    return bool(_library(value)) and any(hasattr(type(value), name) for name in ("columns", "column_names"))


def columns_of(table: object, where: str) -> Columns:
    """Return the columns of a table by name, in its order.

    Args:
        table: a data frame; a mapping from names to arrays or lists; a pair of arrays, for columns ``x`` and ``y``; or
            one array, for a column ``x`` or, if it is structured, for a column of each of its fields.
        where: the table's place, for errors, such as ``"silo 'ewr', source 'rows'"``.

    Raises:
        UsageError: it is no table, its columns have different lengths, or one has missing values or a dtype that silos
            do not know.
    """
    columns: Columns = {}
    for name, values, missing in _named(table, where):
        if name in columns:
            raise UsageError(f"{where}: two columns have the name {name!r}", hint="rename one of them")
        column = f"{where}: column {name!r}"
        if missing:
            raise UsageError(f"{column} has {missing} missing values", hint=_FILL)
        columns[name] = _plain(values, column)
    if not columns:
        raise UsageError(f"{where} has no column", hint="give at least one")
    lengths = {name: len(array) for name, array in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise UsageError(f"{where}: its columns have different lengths: {shown}", hint="give one value for each row")
    return columns


Named: TypeAlias = Iterable[tuple[str, object, int]]
"""Columns: the name, the values, and the number of values that their library calls missing."""


def _named(table: object, where: str) -> Named:
    if is_frame(table):
        return _READERS[_library(table)](cast("Any", table))
    if isinstance(table, Mapping):
        return [(str(name), values, 0) for name, values in cast("Mapping[object, object]", table).items()]
    if isinstance(table, tuple):
        pair = cast("tuple[object, ...]", table)
        if len(pair) != 2:
            raise UsageError(f"{where} is a tuple of {len(pair)}", hint="give a pair of arrays (x, y), or a dict")
        return [("x", pair[0], 0), ("y", pair[1], 0)]
    if hasattr(table, "__array__"):
        array: Array = np.asanyarray(cast("Any", table))
        return [(name, array[name], 0) for name in array.dtype.names] if array.dtype.names else [("x", array, 0)]
    raise UsageError(
        f"{where} is of the type {type(table).__name__}, which is no table",
        hint="give a data frame, a dict of arrays, a pair of arrays (x, y), or a file's path",
    )


def _library(value: object) -> str:
    """Return the library of data frames that a value's class, or a base of it, comes from; else an empty string."""
    roots = (base.__module__.partition(".")[0] for base in type(value).__mro__)
    return next((root for root in roots if root in _READERS), "")


def _of_pandas(frame: Any) -> Named:  # noqa: ANN401 -- each of these libraries is optional
    for position, name in enumerate(frame.columns):
        series = frame.iloc[:, position]
        missing = int(series.isna().sum())
        if getattr(series.dtype, "tz", None) is not None:
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        # Of pandas' own types with NA, such as Int64. Others convert by themselves.
        dtype = None if missing else getattr(series.dtype, "numpy_dtype", None)
        yield str(name), series.to_numpy(dtype=dtype), missing


def _of_polars(frame: Any) -> Named:  # noqa: ANN401
    for series in (frame.collect() if hasattr(frame, "collect") else frame).iter_columns():
        yield series.name, series.to_numpy(), series.null_count()


def _of_pyarrow(table: Any) -> Named:  # noqa: ANN401
    for position, name in enumerate(table.column_names):
        column = table.column(position)
        if hasattr(column.type, "value_type") and hasattr(column.type, "index_type"):
            column = column.cast(column.type.value_type)  # a dictionary's values in place of their numbers
        yield name, column.to_numpy(zero_copy_only=False) if _is_array(column) else column.to_numpy(), column.null_count


def _is_array(column: object) -> bool:
    return "Chunked" not in type(column).__name__  # a chunked array's method has no such argument in all versions


_READERS: Final[Mapping[str, Callable[[Any], Named]]] = {
    "pandas": _of_pandas,
    "polars": _of_polars,
    "pyarrow": _of_pyarrow,
}


def _plain(values: object, column: str) -> Array:
    """Return values as an array of numbers, truth values, text or points in time; its first dimension is the rows'."""
    try:
        # numpy would convert a number among text to text.
        array = _from_objects(list(cast("Iterable[object]", values)), column) if isinstance(values, list) else None
        array = np.asanyarray(cast("Any", values)) if array is None else array
        if array.dtype.kind == "O" and array.ndim:
            array = _from_objects(array.tolist(), column)
    except (TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{column} is no array: {reason}", hint="give numbers, truth values or text") from error
    if isinstance(array, np.ma.MaskedArray):
        masked = int(np.count_nonzero(cast("Any", array).mask))
        if masked:
            raise UsageError(f"{column} has {masked} masked values", hint=_FILL)
        array = cast("Array", array.data)
    if not array.ndim:
        raise UsageError(f"{column} is one value, not one for each row", hint="give a list or an array")
    if array.dtype.kind == "M" and np.isnat(array).any():
        raise UsageError(f"{column} has {int(np.isnat(array).sum())} missing points in time", hint=_FILL)
    known = array.dtype.kind in "bUSM" or (array.dtype.kind in "iuf" and array.dtype.itemsize <= _NUMBER_BYTES)
    if not known:
        raise UsageError(
            f"{column} is of the dtype {array.dtype}, which silos do not know",
            hint="convert it to numbers, truth values, text or points in time",
        )
    return array


def _from_objects(values: Sequence[Any], column: str) -> Array:
    """Return Python objects of one kind as an array of that kind."""
    missing = sum(map(_is_missing, values))
    if missing:
        raise UsageError(f"{column} has {missing} missing values", hint=_FILL)
    for kinds, dtype in _KINDS:
        if values and all(isinstance(value, kinds) for value in values):
            return np.array([_in_utc(value) for value in values] if dtype == "datetime64[us]" else values, dtype)
    if values and all(hasattr(value, "__len__") and not isinstance(value, str | bytes) for value in values):
        return np.stack([_plain(value, column) for value in values])
    if any(isinstance(value, str | bytes) for value in values):
        raise UsageError(f"{column} has text and other values", hint="convert all of them to one type")
    return np.array(values)


_KINDS: Final[tuple[tuple[type | tuple[type, ...], str | None], ...]] = (
    (str, "str"),
    (bytes, "bytes"),
    (bool, "bool"),
    (int, None),
    ((int, float, decimal.Decimal), "float64"),
    (datetime.datetime, "datetime64[us]"),
    (datetime.date, "datetime64[D]"),
)


def _is_missing(value: object) -> bool:
    # pandas' own NA and NaT are of classes with these names; a float is missing where a library made it one of objects.
    return value is None or type(value).__name__ in {"NAType", "NaTType"}


def _in_utc(value: datetime.datetime) -> datetime.datetime:
    return value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)
