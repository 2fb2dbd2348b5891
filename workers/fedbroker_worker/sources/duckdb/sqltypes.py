"""Columns of a duckdb query: their SQL types, the announced dtypes, and the SQL expressions that convert them.

Plain functions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb

from fedbroker.wire.messages import Column
from fedbroker_worker.errors import ColumnError, Problem

__all__ = ["READERS", "SqlColumn", "from_file", "one_line", "one_select", "quoted", "sql_column"]

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
"""SQL types whose values arrive in a numpy dtype without a cast."""

_CAST: Final = {
    "HUGEINT": "BIGINT",
    "UHUGEINT": "BIGINT",
    "DECIMAL": "DOUBLE",
    "ENUM": "VARCHAR",
    "UUID": "VARCHAR",
}
"""SQL types that are cast to a plain one; for a value that does not fit, the query fails: no value changes silently."""

_COMPUTED: Final = {
    "DATE": ("date_diff('day', date '1970-01-01', {})::INTEGER", "int32"),
    "TIMESTAMP": ("epoch_us({})", "int64"),
    "TIMESTAMP WITH TIME ZONE": ("epoch_us({})", "int64"),
    "TIMESTAMP_S": ("epoch_us({}::TIMESTAMP)", "int64"),
    "TIMESTAMP_MS": ("epoch_us({}::TIMESTAMP)", "int64"),
    "TIMESTAMP_NS": ("epoch_us({}::TIMESTAMP)", "int64"),
}
"""SQL types of points in time, with the expression and the dtype of the number since 1970."""

_HINTS: Final = {
    "TIME": "select a number of it, such as epoch({})",
    "INTERVAL": "select a number of it, such as epoch({})",
    "STRUCT": "select its fields, such as {}.field",
    "JSON": "cast it in the query, such as {}::VARCHAR",
}

SHORT: Final = 32
"""The longest vector whose elements are selected as separate columns; more would make the query long."""

_DIMENSION: Final = re.compile(r"\[(\d*)\]$")

if TYPE_CHECKING:
    from pathlib import Path


READERS: Final = {
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".txt": "read_csv",
    ".parquet": "read_parquet",
    ".json": "read_json",
    ".jsonl": "read_json",
    ".ndjson": "read_json",
}
"""DuckDB's function that reads files, by their ending."""

_COMPRESSED: Final = (".gz", ".zst")
"""Endings of compressed files; DuckDB decompresses them itself, and the ending before it names the format."""


@dataclass(frozen=True, slots=True)
class SqlColumn:
    """One column of a query.

    Attributes:
        announced: name, dtype and row shape.
        expression: the SQL expression that selects it from the query, as a type that numpy has.
    """

    announced: Column
    expression: str

    @property
    def name(self) -> str:
        """The column's name."""
        return self.announced.name

    @property
    def elements(self) -> tuple[str, ...]:
        """SQL expressions of the elements of a short vector, several times faster than cells that are arrays.

        Empty for scalars, text, and vectors that are long or have no fixed length.
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
        """True if all elements of all rows are selected one after another, with the rows' lengths, for the same reason.

        This is so for vectors that are long or have no fixed length, and for vectors of text.
        """
        return len(self.announced.shape) == 1 and not self.elements


def quoted(text: str, *, mark: str = '"') -> str:
    """Quote a text as an SQL identifier or, with the mark ``'``, as an SQL string."""
    return mark + text.replace(mark, mark * 2) + mark


def sql_column(source: str, name: str, type_: str) -> SqlColumn:
    """Return the column for an SQL type such as ``DECIMAL(5,2)`` or ``FLOAT[4]``.

    Raises:
        ColumnError: the type has no counterpart; the hint says what to select instead.
    """
    base = type_
    shape: tuple[int | None, ...] = ()
    while match := _DIMENSION.search(base):
        # FLOAT[2][3] is an array of three FLOAT[2]: the outermost dimension stands last.
        base, shape = base[: match.start()], (*shape, int(match[1]) if match[1] else None)
    sql_type = base.split("(", 1)[0].strip('"')
    expression = quoted(name)
    if sql_type in _COMPUTED and not shape:
        template, dtype = _COMPUTED[sql_type]
        return SqlColumn(Column(name, dtype), template.format(expression))
    if sql_type in _CAST:
        sql_type = _CAST[sql_type]
        expression = f"{expression}::{sql_type}{type_.removeprefix(base)}"
    if sql_type not in _PLAIN:
        hint = _HINTS.get(sql_type, "cast it in the query, or leave it out").format(expression)
        raise ColumnError(
            source,
            name,
            f"is of the SQL type {type_}, which is not supported",
            hint=hint,
            problem=Problem.NO_COUNTERPART,
        )
    return SqlColumn(Column(name, _PLAIN[sql_type], shape), expression)


def from_file(path: Path) -> str | None:
    """Return the statement that yields a file's rows; None for an unknown ending."""
    suffix = path.with_suffix("").suffix if path.suffix in _COMPRESSED else path.suffix
    reader = READERS.get(suffix.lower())
    return f"from {reader}({quoted(str(path), mark=chr(39))})" if reader else None


def one_select(connection: duckdb.DuckDBPyConnection, text: str) -> str | None:
    """Return the statement without a final semicolon; None if the text is not one SELECT.

    Callers put the statement in parentheses, with a newline after it, because it may end in a comment.

    Raises:
        duckdb.ParserException: the text is not valid SQL.
    """
    statements = connection.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        return None
    return statements[0].query.strip().rstrip(";")


def one_line(error: duckdb.Error) -> str:
    """Return duckdb's message without the excerpt of the query and the pointer below it."""
    text = str(error).split("\n\nLINE ", 1)[0]
    return " ".join(text.split())
