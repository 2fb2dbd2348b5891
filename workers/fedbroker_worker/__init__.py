"""A silo: receives work items from its queue, computes over its own data and replies. It needs no open port."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["worker_version"]


def worker_version() -> str:
    """Return the version of ``fedbroker-worker``; ``source`` if it runs from a source tree that is not installed."""
    try:
        return version("fedbroker-worker")
    except PackageNotFoundError:
        return "source"
