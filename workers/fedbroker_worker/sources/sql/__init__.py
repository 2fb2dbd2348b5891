"""Columns of any database that SQLAlchemy reads: the source ``sql``."""

from __future__ import annotations

from fedbroker_worker.sources.sql.source import SqlSource

__all__ = ["SqlSource"]
