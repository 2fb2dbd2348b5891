"""Convert a column's cells, as a database returns them, to one plain array: no NULL, no ragged row, no mask.

Plain functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fedbroker_worker.errors import ColumnError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedbroker.wire.messages import Column

__all__ = ["Array", "array_of", "vectors_of"]

Array = npt.NDArray[Any]

_PAD: Final = "pad or cut them in the query to one length"


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
    return _plain(column, flat)


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
    return _plain(column, _without_null(source, column, elements)).reshape(len(lengths), length)


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
    joined: Array = np.ma.concatenate(cells) if masked else np.concatenate(cells)  # type: ignore[no-untyped-call]
    inner = _without_null(source, column, joined)
    if len(shape) > 1:
        inner = _stacked(source, column, inner, shape[1:])
    return inner.reshape(len(cells), length, *inner.shape[1:])


def _same(source: str, column: Column, lengths: Iterable[int], of_none: int = 0) -> int:
    """Return the length that all rows have; ``of_none`` without any row."""
    found = set(lengths)
    if len(found) > 1:
        what = f"has rows of different lengths, from {min(found)} to {max(found)}"
        raise ColumnError(source, column.name, what, hint=_PAD, problem=Problem.RAGGED)
    return found.pop() if found else of_none


def _plain(column: Column, cells: Array) -> Array:
    return _text(cells) if column.dtype == "str" else cells.astype(column.dtype, copy=False)


def _text(cells: Array) -> Array:
    """Return text as ``str`` or ``bytes``: a database may return a BLOB as a bytearray."""
    flat = [bytes(cell) if isinstance(cell, bytearray | memoryview) else cell for cell in cells.ravel()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(cells.shape)
