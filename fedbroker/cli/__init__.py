"""The command line ``fedbroker``: one module per group of commands, each imported when it is used."""

from __future__ import annotations

from typing import NoReturn

import cyclopts

import fedbroker
from fedbroker.console import run

__all__ = ["app", "main"]

app = cyclopts.App(
    name="fedbroker",
    help="TensorFlow Federated over RabbitMQ: silos dial out to a broker and pull their work.",
    help_epilogue="Exit codes: 0 done, 2 your settings, 3 the broker, 4 cohort, silo or data, 5 anything else, "
    "130 interrupted. FEDBROKER_DEBUG=1 adds tracebacks.",
    version=fedbroker.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
app.command("fedbroker.cli.admin:app", name="admin", help="Users, queues and permissions for silos.")
app.command("fedbroker.cli.broker:app", name="broker", help="A RabbitMQ node for this machine only.")
app.command("fedbroker.cli.cohort:app", name="cohort", help="Which silos are there, and what they are doing.")
app.command("fedbroker.cli.dead:app", name="dead", help="Work that silos did not get to, or choked on.")
app.command("fedbroker.cli.doctor:doctor", name="doctor", help="What is wrong with the broker, and what to do.")
app.command(
    "fedbroker.cli.key:key",
    name="key",
    help="Your public key, and the secret that belongs to it.",
    help_epilogue="Examples:\n  fedbroker key secret.key    makes it, if it is not there",
)
app.command("fedbroker.cli.version:version", name="version", help="What is installed.")


def main() -> NoReturn:
    """Run the command line and end the process with its exit code (see :mod:`fedbroker.console`)."""
    run(lambda: app(exit_on_error=False, print_error=False, result_action="return_value"))
