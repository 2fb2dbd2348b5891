"""Types of columns in the settings: a word such as ``float32``, ``date`` or ``float32[4]``.

Plain functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.wire.messages import Column
from fedbroker_worker.dtype_cast import BFLOAT16, DTYPES, TEXT
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.options import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["DATE", "DATETIME", "DeclaredType", "check_names", "given_types"]

DATE: Final = "date"
DATETIME: Final = "datetime"

_POINTS: Final = {DATE: "int32", DATETIME: "int64"}
"""Types of points in time, and the dtypes of their numbers: days, or microseconds, since 1970."""

_WORDS: Final = (*(dtype for dtype in DTYPES if dtype != BFLOAT16 and "complex" not in dtype), *_POINTS)

_TYPE: Final = re.compile(r"(?P<word>[a-z0-9]+)(?P<dimensions>(\[\d*\])*)")


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """A column and the type of its cells.

    Attributes:
        name: the column's name.
        word: a numpy dtype, ``str``, ``date`` or ``datetime``.
        shape: the shape of one row; None stands for a length that varies.
    """

    name: str
    word: str
    shape: tuple[int | None, ...] = ()

    @property
    def announced(self) -> Column:
        """The column as it is announced to coordinators."""
        return Column(self.name, _POINTS.get(self.word, self.word), self.shape)

    @property
    def text(self) -> bool:
        """True if the cells are text."""
        return self.word == TEXT

    @property
    def inner(self) -> DeclaredType:
        """The type of a cell's elements: the same type without its first dimension."""
        return DeclaredType(self.name, self.word, self.shape[1:])

    def __str__(self) -> str:
        return self.word + "".join(f"[{'' if size is None else size}]" for size in self.shape)


def given_types(source: str, types: Mapping[str, str]) -> dict[str, DeclaredType]:
    """Return the types in a table ``types``, by column.

    Raises:
        SettingsError: a value is not a type.
    """
    return {name: _typed(source, name, text) for name, text in types.items()}


def check_names(source: str, key: str, names: Iterable[str], there: Iterable[str]) -> None:
    """Raise SettingsError unless each of these names, the value of ``key``, is a column."""
    known = list(there)
    for name in names:
        if name not in known:
            what = f"{key!r} in [data.{source}]: there is no column {name!r}"
            raise SettingsError(what, hint=nearest(name, known))


def _typed(source: str, name: str, text: str) -> DeclaredType:
    match = _TYPE.fullmatch(text)
    if match is None or match["word"] not in _WORDS:
        what = f"'types.{name}' in [data.{source}]: {text!r} is no type"
        raise SettingsError(what, hint=nearest(text.split("[", 1)[0], _WORDS))
    sizes = re.findall(r"\[(\d*)\]", match["dimensions"])
    return DeclaredType(name, match["word"], tuple(int(size) if size else None for size in sizes))
