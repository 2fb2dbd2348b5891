"""SQL statements, from the administrator or for a file; and duckdb's errors as one line.

Plain functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import duckdb

from fedbroker_worker.sources.duckdb.sqltypes import quoted

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["READERS", "from_file", "one_line", "one_select"]

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
