"""A silo: receives work items from its queue, computes over its own data and replies; it only ever connects out."""

from __future__ import annotations

__all__: list[str] = []
