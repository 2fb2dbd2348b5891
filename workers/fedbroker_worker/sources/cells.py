"""From the cells of a column as a database hands them out to one plain array: no NULL, no ragged row, no mask.

Plain functions. Imports wire's messages and this distribution's errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fedbroker_worker.errors import ColumnError

if TYPE_CHECKING:
    from fedbroker.wire.messages import Column

__all__ = ["Array", "array_of"]

Array = npt.NDArray[Any]

_PAD: Final = "pad or cut them in the query to one length"


def array_of(source: str, column: Column, cells: Array) -> Array:
    """One array of a column's cells.

    Args:
        source: the source's name, for errors.
        column: as announced.
        cells: one for each row; masked where it is NULL. A cell of a vector column is an array itself.

    Returns:
        Shape ``(rows, *column.shape)`` of ``column.dtype``; text is an object array of ``str`` or ``bytes``.

    Raises:
        ColumnError: a NULL, or rows of different lengths.
    """
    flat = _without_null(source, column, cells)
    if column.shape:
        flat = _stacked(source, column, flat, column.shape)
    return _text(flat) if column.dtype == "str" else flat.astype(column.dtype, copy=False)


def _without_null(source: str, column: Column, cells: Array) -> Array:
    nulls = int(np.count_nonzero(cells.mask)) if isinstance(cells, np.ma.MaskedArray) else 0
    if nulls:
        raise ColumnError(
            source,
            column.name,
            f"has {nulls} NULL{'s' * (nulls > 1)} among {cells.size} values",
            hint=f"add `where {column.name} is not null` to the query, or coalesce()"
            if not column.shape
            else "replace them in the query, or leave those rows out",
        )
    return np.asarray(cells)


def _stacked(source: str, column: Column, cells: Array, shape: tuple[int | None, ...]) -> Array:
    """Cells that are arrays, put together along a new first dimension."""
    if not len(cells):
        return np.empty((0, *(size or 0 for size in shape)), dtype=object if column.dtype == "str" else column.dtype)
    lengths = set(map(len, cells))
    if len(lengths) > 1:
        what = f"has rows of different lengths, from {min(lengths)} to {max(lengths)}"
        raise ColumnError(source, column.name, what, hint=_PAD)
    masked = np.ma.MaskedArray in set(map(type, cells))
    # numpy's own would forget the masks
    joined: Array = np.ma.concatenate(cells) if masked else np.concatenate(cells)  # type: ignore[no-untyped-call]
    inner = _without_null(source, column, joined)
    if len(shape) > 1:
        inner = _stacked(source, column, inner, shape[1:])
    return inner.reshape(len(cells), lengths.pop(), *inner.shape[1:])


def _text(cells: Array) -> Array:
    """Text as ``str`` or ``bytes``: a database may hand out a BLOB as a bytearray."""
    flat = [bytes(cell) if isinstance(cell, bytearray | memoryview) else cell for cell in cells.ravel()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(cells.shape)
