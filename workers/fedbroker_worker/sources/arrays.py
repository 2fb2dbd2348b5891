"""Convert any array-like value to a column: no mask, no missing value, no dtype without a counterpart.

Plain functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedbroker_worker.dtype_cast import DTYPES
from fedbroker_worker.errors import ColumnError
from fedbroker_worker.problems import Problem
from fedbroker_worker.sources.values import array_from, infer

if TYPE_CHECKING:
    from fedbroker_worker.sources.cells import Array

__all__ = ["as_array"]

_RETURN: Final = "return numbers, truth values or text, of one length in each row"


def as_array(source: str, column: str, values: object) -> Array:
    """Return a column as a plain array.

    Args:
        source: the source's name, for errors.
        column: the column's name.
        values: an array, a list, or any other value that numpy converts to an array.

    Returns:
        Shape ``(rows, …)`` of a dtype of :data:`~fedbroker_worker.dtype_cast.DTYPES`; text is an object array of
        ``str`` or ``bytes``.

    Raises:
        ColumnError: the values are no column, or a value is missing.
    """
    array = _made(source, column, values)
    if array.ndim == 0:
        raise ColumnError(
            source,
            column,
            "is one value, not one for each row",
            hint="return a list or an array",
            problem=Problem.NOT_ROWS,
        )
    if isinstance(array, np.ma.MaskedArray):
        masked = int(np.count_nonzero(array.mask))
        if masked:
            raise ColumnError(
                source,
                column,
                f"has {masked} masked values",
                hint="fill them, or leave those rows out",
                problem=Problem.NO_VALUE,
            )
        array = array.data
    match array.dtype.kind:
        case "O":
            return _of_objects(source, column, array)
        case "U" | "S":
            return array.astype(object)
        case "M":
            return _of_moments(source, column, array)
        case _ if array.dtype.name in DTYPES:
            return array
    raise ColumnError(
        source,
        column,
        f"is of the dtype {array.dtype}, which has no counterpart here",
        hint=_RETURN,
        problem=Problem.NO_COUNTERPART,
    )


def _made(source: str, column: str, values: object) -> np.ndarray[Any, Any]:
    try:
        array = np.asanyarray(values)
    except Exception as error:
        said = " ".join(str(error).split())
        raise ColumnError(
            source, column, f"is no array: {said}", hint=_RETURN, problem=Problem.NO_COUNTERPART
        ) from None
    # numpy would convert a number among text to text.
    mixed = array.dtype.kind in "US" and isinstance(values, list | tuple) and array.ndim == 1
    return np.array(values, dtype=object) if mixed else array


def _of_objects(source: str, column: str, array: Array) -> Array:
    """Convert an array of Python objects, whose type is inferred from each of them."""
    typed = infer(source, column, array.tolist())
    if typed is None:
        if array.size:
            raise ColumnError(
                source,
                column,
                f"has {array.size} missing values and no other",
                hint="leave it out",
                problem=Problem.NO_TYPE,
            )
        return array
    return array_from(source, typed, array.tolist(), lambda at: f"in row {at + 1}")


def _of_moments(source: str, column: str, array: Array) -> Array:
    missing = int(np.count_nonzero(np.isnat(array)))
    if missing:
        raise ColumnError(
            source,
            column,
            f"has {missing} missing points in time",
            hint="leave those rows out",
            problem=Problem.NO_VALUE,
        )
    if np.datetime_data(array.dtype)[0] == "D":
        return array.astype(np.int64).astype(np.int32)
    return array.astype("datetime64[us]").astype(np.int64)
