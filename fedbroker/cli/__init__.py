"""The command line ``fedbroker``: one module per group of commands, each imported when it is used."""

from __future__ import annotations

from typing import NoReturn

from fedbroker.cli.root import app
from fedbroker.console import run

__all__ = ["app", "main"]


def main() -> NoReturn:
    """Run the command line and end the process with its exit code (see :mod:`fedbroker.console`)."""
    run(lambda: app(exit_on_error=False, print_error=False, result_action="return_value"))
