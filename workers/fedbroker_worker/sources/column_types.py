"""The types of columns: the dtypes that computations request, the conversion to them, and types in the settings.

A conversion that would change a number raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from fedbroker.wire.messages import Column
from fedbroker_worker.errors import ColumnError, Problem, SettingsError, WorkRefused
from fedbroker_worker.options import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "DATE",
    "DATETIME",
    "DTYPES",
    "WITHOUT_ROWS",
    "DeclaredType",
    "cast_to",
    "check_dtype",
    "check_names",
    "given_types",
    "of_each",
    "requested_type",
]

Array = npt.NDArray[Any]
T = TypeVar("T")

BFLOAT16: Final = "bfloat16"
TEXT: Final = "str"

DTYPES: Final = (
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", BFLOAT16, "complex64", "complex128"),
    TEXT,
)
"""Every dtype in which a computation may request a column."""

DATE: Final = "date"
DATETIME: Final = "datetime"

WITHOUT_ROWS: Final = "float64"
"""The announced type of a column whose source has no rows from which to infer one; such a source fits any type."""

_POINTS: Final = {DATE: "int32", DATETIME: "int64"}
"""Types of points in time, and the dtypes of their numbers: days, or microseconds, since 1970."""

_TYPE_NAMES: Final = (*(dtype for dtype in DTYPES if dtype != BFLOAT16 and "complex" not in dtype), *_POINTS)

_SIZES: Final = re.compile(r"((\d{1,9}|\?)(,(\d{1,9}|\?)){0,7})?\]")
_TYPE: Final = re.compile(r"(?P<type_name>[a-z0-9]+)(?P<dimensions>(\[\d*\])*)")


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """A column and the type of its cells.

    Attributes:
        name: the column's name.
        type_name: a numpy dtype, ``str``, ``date`` or ``datetime``.
        shape: the shape of one row; None stands for a length that varies.
    """

    name: str
    type_name: str
    shape: tuple[int | None, ...] = ()

    @property
    def announced(self) -> Column:
        """The column as it is announced to coordinators."""
        return Column(self.name, _POINTS.get(self.type_name, self.type_name), self.shape)

    @property
    def text(self) -> bool:
        """True if the cells are text."""
        return self.type_name == TEXT

    @property
    def inner(self) -> DeclaredType:
        """The type of a cell's elements: the same type without its first dimension."""
        return DeclaredType(self.name, self.type_name, self.shape[1:])

    def __str__(self) -> str:
        return self.type_name + "".join(f"[{'' if size is None else size}]" for size in self.shape)


def of_each(names: Iterable[str], type_of: Callable[[str], T]) -> dict[str, T]:
    """Return the type, or the array, of each column.

    Raises:
        ColumnError: columns have no usable type or cannot be read; names all of them.
    """
    found: dict[str, T] = {}
    errors: list[ColumnError] = []
    for name in names:
        try:
            found[name] = type_of(name)
        except ColumnError as error:
            errors.append(error)
    if errors:
        raise ColumnError.joined(errors)
    return found


def given_types(source: str, types: Mapping[str, str]) -> dict[str, DeclaredType]:
    """Return the types in a table ``types``, by column.

    Raises:
        SettingsError: a value is not a type.
    """
    return {name: _declared(source, name, text) for name, text in types.items()}


def check_names(source: str, key: str, names: Iterable[str], existing: Iterable[str]) -> None:
    """Raise SettingsError unless each of these names, the value of ``key``, is a column."""
    columns = list(existing)
    for name in names:
        if name not in columns:
            what = f"{key!r} in [data.{source}]: the source has no column {name!r}"
            raise SettingsError(what, hint=nearest(name, columns))


def _declared(source: str, name: str, text: str) -> DeclaredType:
    match = _TYPE.fullmatch(text)
    if match is None or match["type_name"] not in _TYPE_NAMES:
        what = f"'types.{name}' in [data.{source}]: {text!r} is no type"
        raise SettingsError(what, hint=nearest(text.split("[", 1)[0], _TYPE_NAMES))
    sizes = re.findall(r"\[(\d*)\]", match["dimensions"])
    return DeclaredType(name, match["type_name"], tuple(int(size) if size else None for size in sizes))


def cast_to(dtype: str, values: Array, *, source: str, column: str) -> Array:
    """Convert values to the requested dtype.

    Numbers are converted within their kind and towards the more general kind (bool, integer, float, complex). Integers
    and finite floats that the narrower dtype cannot hold are an error; floats are rounded to nearest.

    Args:
        dtype: one of :data:`DTYPES`.
        values: an array of any shape.
        source: the source's name, for errors.
        column: the column's name, for errors.

    Returns:
        A contiguous array in the machine's byte order. Text is an object array of ``bytes``; ``bfloat16``, which numpy
        lacks, is ``uint16`` with the same bits.

    Raises:
        ColumnError: the column does not convert, or a value does not fit.
        WorkRefused: the dtype does not exist.
    """
    check_dtype(dtype, column)

    def refused(what: str, hint: str, problem: Problem = Problem.NOT_CONVERTIBLE) -> ColumnError:
        return ColumnError(source, column, what, hint=hint, problem=problem, dtype=dtype)

    if TEXT in (dtype, _name(values)):
        if dtype != _name(values):
            raise refused(f"is {_name(values)}, requested as {dtype}", "cast it in the source's query")
        return _encoded(values, refused)
    target = np.dtype("float32" if dtype == BFLOAT16 else dtype)
    if not np.can_cast(values.dtype, target, "same_kind"):
        raise refused(f"is {values.dtype}, requested as {dtype}", "cast it in the source's query")
    cast = _integers(values, target, refused) if target.kind in "iu" else _floats(values, target, refused)
    return np.ascontiguousarray(_bfloat16_bits(cast, refused) if dtype == BFLOAT16 else cast).reshape(values.shape)


def requested_type(text: str, shape: tuple[int | None, ...]) -> tuple[str, tuple[int | None, ...]]:
    """Return dtype and row shape of a request such as ``float32`` or ``float32[?,4]``.

    A coordinator names the shape where a source without rows was announced with another one.

    Args:
        text: the request.
        shape: the announced shape, for a request without one.
    """
    dtype, bracket, sizes = text.partition("[")
    if not bracket or not _SIZES.fullmatch(sizes):
        return text, shape
    return dtype, tuple(None if size == "?" else int(size) for size in sizes[:-1].split(",") if size)


def check_dtype(dtype: str, column: str) -> None:
    """Raise WorkRefused unless a computation may request a column in that dtype."""
    if dtype not in DTYPES:
        raise WorkRefused(f"column {column!r} is requested as {dtype!r}", hint=f"use one of {', '.join(DTYPES)}")


def _name(values: Array) -> str:
    return TEXT if values.dtype.kind in "OSU" else values.dtype.name


def _encoded(values: Array, refused: Callable[..., ColumnError]) -> Array:
    result = np.empty(values.size, dtype=object)
    try:
        result[:] = [bytes(cell) if isinstance(cell, bytes) else str(cell).encode() for cell in values.ravel()]
    except UnicodeEncodeError:  # a lone surrogate; the exception's text quotes the cell
        what, hint = "holds text that is not valid Unicode", "correct it, or leave its rows out"
        raise refused(what, hint, Problem.NOT_UNICODE) from None
    return result.reshape(values.shape)


def _integers(values: Array, target: np.dtype[Any], refused: Callable[..., ColumnError]) -> Array:
    if values.dtype.kind in "iu" and values.size:
        bounds = np.iinfo(target)
        low, high = int(values.min()), int(values.max())
        if low < bounds.min or high > bounds.max:
            worst = low if low < bounds.min else high
            raise refused(
                f"holds {worst}, which {target} cannot",
                "ask for a wider dtype, or narrow the query",
                Problem.OUT_OF_RANGE,
            )
    return values.astype(target, copy=False)


def _floats(values: Array, target: np.dtype[Any], refused: Callable[..., ColumnError]) -> Array:
    try:
        with np.errstate(over="raise"):
            return values.astype(target, copy=False)
    except FloatingPointError:
        raise _too_large(str(target), refused) from None


def _bfloat16_bits(values: Array, refused: Callable[..., ColumnError]) -> Array:
    """Return the upper half of each float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    rounded[nan] = 0x7FC0
    if np.any(((rounded & 0x7FFF) == 0x7F80) & np.isfinite(values)):
        raise _too_large(BFLOAT16, refused)
    return rounded


def _too_large(dtype: str, refused: Callable[..., ColumnError]) -> ColumnError:
    return refused(
        f"holds a number too large for {dtype}", "ask for a wider dtype, or scale it in the query", Problem.OUT_OF_RANGE
    )
