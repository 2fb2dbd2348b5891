"""What a column of a query is called in SQL, what it is announced as, and how it is selected so that it becomes that.

Plain functions. Imports wire's messages and this distribution's errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fedbroker.wire.messages import Column
from fedbroker_worker.errors import ColumnError
from fedbroker_worker.problems import Problem

__all__ = ["SqlColumn", "quoted", "sql_column"]

_PLAIN: Final = {
    "BOOLEAN": "bool",
    "TINYINT": "int8",
    "SMALLINT": "int16",
    "INTEGER": "int32",
    "BIGINT": "int64",
    "UTINYINT": "uint8",
    "USMALLINT": "uint16",
    "UINTEGER": "uint32",
    "UBIGINT": "uint64",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "VARCHAR": "str",
    "BLOB": "str",
}
"""SQL types whose values arrive as numpy's own."""

_CAST: Final = {
    "HUGEINT": "BIGINT",
    "UHUGEINT": "BIGINT",
    "DECIMAL": "DOUBLE",
    "ENUM": "VARCHAR",
    "UUID": "VARCHAR",
}
"""SQL types that are cast to a plain one; a value that does not fit is the query's error, never another value."""

_COMPUTED: Final = {
    "DATE": ("date_diff('day', date '1970-01-01', {})::INTEGER", "int32"),
    "TIMESTAMP": ("epoch_us({})", "int64"),
    "TIMESTAMP WITH TIME ZONE": ("epoch_us({})", "int64"),
    "TIMESTAMP_S": ("epoch_us({}::TIMESTAMP)", "int64"),
    "TIMESTAMP_MS": ("epoch_us({}::TIMESTAMP)", "int64"),
    "TIMESTAMP_NS": ("epoch_us({}::TIMESTAMP)", "int64"),
}
"""SQL types of points in time, as a number since 1970."""

_HINTS: Final = {
    "TIME": "select a number of it, such as epoch({})",
    "INTERVAL": "select a number of it, such as epoch({})",
    "STRUCT": "select its fields, such as {}.field",
    "JSON": "cast it in the query, such as {}::VARCHAR",
}

SHORT: Final = 32
"""Elements up to which a vector is selected one by one."""

_DIMENSION: Final = re.compile(r"\[(\d*)\]$")


@dataclass(frozen=True, slots=True)
class SqlColumn:
    """One column of a query.

    Attributes:
        announced: name, dtype and row shape.
        expression: selects it from the query, as a type that numpy has.
    """

    announced: Column
    expression: str

    @property
    def name(self) -> str:
        """The column's name."""
        return self.announced.name

    @property
    def elements(self) -> tuple[str, ...]:
        """Select each element of a short vector, which is several times faster than a cell that is an array itself.

        Empty for scalars, text, and vectors that are long or of no fixed length.
        """
        match self.announced:
            case Column(dtype="str"):
                return ()
            case Column(shape=(int(length),)) if 0 < length <= SHORT:
                return tuple(f"({self.expression})[{at}]" for at in range(1, length + 1))
            case _:
                return ()

    @property
    def flat(self) -> bool:
        """Select all elements of all rows one after another, and the rows' lengths, for the same reason.

        True for a vector that is long or of no fixed length, and for one of text.
        """
        return len(self.announced.shape) == 1 and not self.elements


def quoted(text: str, *, mark: str = '"') -> str:
    """An SQL identifier, or, with ``'``, an SQL string."""
    return mark + text.replace(mark, mark * 2) + mark


def sql_column(source: str, name: str, type_: str) -> SqlColumn:
    """What becomes of a column of that SQL type, such as ``DECIMAL(5,2)`` or ``FLOAT[4]``.

    Raises:
        ColumnError: the type has no counterpart; says what to select instead.
    """
    base = type_
    shape: tuple[int | None, ...] = ()
    while match := _DIMENSION.search(base):
        # FLOAT[2][3] is an array of three FLOAT[2]: the outermost dimension stands last.
        base, shape = base[: match.start()], (*shape, int(match[1]) if match[1] else None)
    word = base.split("(", 1)[0].strip('"')
    expression = quoted(name)
    if word in _COMPUTED and not shape:
        template, dtype = _COMPUTED[word]
        return SqlColumn(Column(name, dtype), template.format(expression))
    if word in _CAST:
        word = _CAST[word]
        expression = f"{expression}::{word}{type_.removeprefix(base)}"
    if word not in _PLAIN:
        hint = _HINTS.get(word, "cast it in the query, or leave it out").format(expression)
        raise ColumnError(
            source,
            name,
            f"is of the SQL type {type_}, which has no counterpart here",
            hint=hint,
            problem=Problem.NO_COUNTERPART,
        )
    return SqlColumn(Column(name, _PLAIN[word], shape), expression)
