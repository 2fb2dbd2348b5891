"""RabbitMQ's own command-line tools for a private node, as pages call them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from fedbroker.broker import PrivateBroker


def write_rabbitmqctl(broker: PrivateBroker, directory: Path) -> Path:
    """Write ``rabbitmqctl`` and ``rabbitmq-plugins`` for this node into a directory, for PATH; return the directory."""
    orders = json.loads((broker.directory / "supervisor.json").read_text(encoding="utf-8"))
    variables = " ".join(shlex.quote(f"{name}={value}") for name, value in orders["env"].items())
    # RabbitMQ 4's add_user counts its arguments: with one more it does not read the password.
    quiet = 'case "$1" in add_user) ;; *) set -- --quiet "$@" ;; esac'
    for name in ("rabbitmqctl", "rabbitmq-plugins"):
        program = Path(orders["server"][0]).with_name(name)
        run = f'exec env -i {variables} {shlex.quote(str(program))} "$@"'
        (directory / name).write_text(f"#!/bin/sh\n{quiet}\n{run}\n", encoding="utf-8")
        (directory / name).chmod(0o700)
    return directory
