"""The command line ``fedbroker-silo``: the app, and a module for each of its longer commands."""

from __future__ import annotations

from fedbroker_worker.cli.app import main

__all__ = ["main"]
