"""Imports of duckdb's own, made once and by one thread.

duckdb imports a Python module when it first converts a value that needs it, and holds a lock during the import. If a
second thread waits for that lock and holds the interpreter's lock, neither thread ever goes on.
"""

from __future__ import annotations

import contextlib
import threading

import duckdb

__all__ = ["prepare"]

_VALUES = (
    "1",
    "1.5::double",
    "1.5::decimal(4, 2)",
    "1::hugeint",
    "true",
    "null::int",
    "'a'",
    "'a'::blob",
    "uuid()",
    "date '2020-01-01'",
    "time '10:00'",
    "timestamp '2020-01-01'",
    "timestamptz '2020-01-01 00:00:00+00'",
    "interval 1 day",
    "[1]",
    "{'a': 1}",
    "map {'a': 1}",
)
"""A value of each type that is converted in a way of its own; not an enum, for which duckdb imports pandas if it is
there, and so takes 70 MB."""

_preparing = threading.Lock()
_prepared = threading.Event()


def prepare() -> None:
    """Convert a value of each type, before the first connection of any source."""
    with _preparing:
        if _prepared.is_set():
            return
        with duckdb.connect(":memory:") as connection:
            for value in _VALUES:
                for convert in ("fetchnumpy", "fetchall"):
                    with contextlib.suppress(Exception):  # a type for which a package is not installed here
                        getattr(connection.execute(f"select {value}"), convert)()
        _prepared.set()
