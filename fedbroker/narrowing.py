"""Narrow untyped values, such as parsed JSON: ``isinstance`` leaves a type checker with unknown elements."""

from __future__ import annotations

from typing import Any, TypeGuard

__all__ = ["is_dict", "is_list"]


def is_dict(value: object) -> TypeGuard[dict[Any, Any]]:
    """Return whether the value is a dict."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Return whether the value is a list."""
    return isinstance(value, list)
