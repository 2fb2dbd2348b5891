"""A silo: takes work items from its cohort's queue, computes over its own data, answers; it only ever connects out."""

from __future__ import annotations

__all__: list[str] = []
