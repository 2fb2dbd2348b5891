"""Data sources, where a silo's columns come from: the protocol, the registry, and the worker's own kind."""

from __future__ import annotations

from fedbroker_worker.sources.protocol import DataSource, open_source

__all__ = ["DataSource", "open_source"]
