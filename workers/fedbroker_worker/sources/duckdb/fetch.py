"""The rows of a query as arrays: scalars as cells, vectors element by element, which is ten times faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedbroker.wire.messages import Column
from fedbroker_worker.sources.cells import Array, array_of, vectors_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

    from fedbroker_worker.sources.duckdb.sqltypes import SqlColumn

__all__ = ["fetched"]


def fetched(
    source: str, connection: duckdb.DuckDBPyConnection, query: str, columns: Sequence[SqlColumn], key: str | None
) -> tuple[dict[str, Array], Array | None]:
    """Read all rows of a query, from one state of the data.

    Args:
        source: the source's name, for errors.
        connection: a connection to the database; for flat vectors, a temporary table is created in it.
        query: one SELECT.
        columns: the requested columns, each once.
        key: an additional expression, the client's key; None for none.

    Returns:
        The columns by name, and the cells of ``key``.

    Raises:
        ColumnError: a column has a NULL, or vectors of different lengths.
        duckdb.Error: the query fails.
    """
    flat = [column for column in columns if column.flat]
    others = [one for column in columns if not column.flat for one in column.elements or (column.expression,)]
    others += [] if key is None else [key]
    wanted = [*others, *(column.expression for column in flat)]
    table = f"({query}\n)"
    if flat:
        # A copy, so that all columns are of the same rows even if the files change between two reads.
        made = f"create temp table fedbroker_rows as select {_named(wanted)} from {table}"  # ours, quoted  # nosec B608
        connection.execute(made)
        table, others = "fedbroker_rows", [f"c{at}" for at in range(len(others))]
    arrays = _arrays(connection, others, table)
    rows: dict[str, Array] = {}
    for column in columns:
        if column.flat:
            at = f"c{len(others) + flat.index(column)}"
            (lengths,) = _arrays(connection, [f"len({at})"], table)
            (elements,) = _arrays(connection, [f"unnest({at})"], table)
            rows[column.name] = vectors_of(source, column.announced, lengths, elements)
        else:
            rows[column.name] = _array(source, column, arrays)
    return rows, None if key is None else next(arrays)


def _arrays(connection: duckdb.DuckDBPyConnection, expressions: Sequence[str], table: str) -> Iterator[Array]:
    if not expressions:
        return iter(())
    selected = f"select {_named(expressions)} from {table}"  # names are ours, or quoted  # nosec B608
    return iter(connection.execute(selected).fetchnumpy().values())


def _named(expressions: Sequence[str]) -> str:
    return ", ".join(f"{expression} as c{at}" for at, expression in enumerate(expressions))


def _array(source: str, column: SqlColumn, cells: Iterator[Array]) -> Array:
    """Return one column from its own cells, or from those of its elements."""
    if not column.elements:
        return array_of(source, column.announced, next(cells))
    element = Column(column.name, column.announced.dtype)
    return np.stack([array_of(source, element, next(cells)) for _ in column.elements], axis=1)
