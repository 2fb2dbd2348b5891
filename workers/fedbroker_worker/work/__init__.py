"""How a silo does its work: from a work item to the reply."""

from __future__ import annotations

__all__: list[str] = []
