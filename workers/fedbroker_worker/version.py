"""What is installed of this distribution. Imports the standard library only."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["worker_version"]


def worker_version() -> str:
    """The version of ``fedbroker-worker``; ``source`` where it runs from a source tree that is not installed."""
    try:
        return version("fedbroker-worker")
    except PackageNotFoundError:
        return "source"
