"""Columns by SQL over files: the source ``duckdb``."""

from __future__ import annotations

from fedbroker_worker.sources.duckdb.source import DuckDBSource

__all__ = ["DuckDBSource"]
