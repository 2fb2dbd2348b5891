"""The command line ``fedbroker``: one module per group of commands, each imported when it is used.

The texts of ``help=`` stand here, since ``fedbroker --help`` shows their first lines without importing the commands.
"""

from __future__ import annotations

from typing import NoReturn

import cyclopts

import fedbroker
from fedbroker.console import run

__all__ = ["app", "main"]


def _unwrapped(text: str) -> str:
    """Return a text with one line per paragraph: cyclopts keeps line breaks, and wraps at the terminal's width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


app = cyclopts.App(
    name="fedbroker",
    help="Run TensorFlow Federated programs over RabbitMQ. Silos connect to a broker and pull their work.",
    help_epilogue="Exit codes: 0 success, 2 settings, 3 broker, 4 cohort, silo or data, 5 other errors, "
    "130 interrupted. FEDBROKER_DEBUG=1 adds tracebacks.",
    version=fedbroker.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(  # pyright: ignore[reportUnknownMemberType] -- its keywords have no types
    help="Install completion of commands and options for your shell (bash, zsh, fish): --shell names another one.",
)
app.command(
    "fedbroker.cli.admin:app",
    name="admin",
    help=_unwrapped("""Manage silos' users, queues and permissions at the broker.

The login for the management API, such as https://admin:password@broker.example:15671, is read from
FEDBROKER_ADMIN_URL, or from the file that FEDBROKER_ADMIN_URL_FILE names."""),
)
app.command(
    "fedbroker.cli.board:app",
    name="board",
    help=_unwrapped("""Serve a page of cohorts, sessions and curves.

The page shows live which silos are present, why a session waits, and the metrics of programs. It is read-only."""),
)
app.command("fedbroker.cli.local:app", name="broker", help="Run a RabbitMQ node for this machine only.")
app.command(
    "fedbroker.cli.cohort:app",
    name="cohort",
    help=_unwrapped("""Show the silos of a cohort and their work.

The commands listen to the silos' announcements, as a coordinator does. They disturb no silo and no coordinator."""),
)
app.command(
    "fedbroker.cli.curves:curves",
    name="curves",
    help=_unwrapped("""Plot the metrics of a program's rounds in the terminal.

Reads a CSV file with a column `round`, as fedbroker.tracking.CSV and TFF's CSVFileReleaseManager write it, or a
directory of TensorBoard's event files."""),
    help_epilogue="""Examples:
  fedbroker curves metrics.csv
  fedbroker curves metrics.csv --metric loss --metric eval/accuracy
  fedbroker curves logs --width 60 --height 10
  fedbroker curves metrics.csv --json | jq '.["train/loss"][-1]'""",
)
app.command(
    "fedbroker.cli.dead_letters:app",
    name=("dead-letters", "dead"),
    help=_unwrapped("""List, replay, requeue or delete dead-lettered work.

The broker dead-letters a work item that no silo picked up in time, that a silo could not read, or that a silo returned
too often. It keeps a dead letter for seven days. Only `requeue` and `purge` remove letters earlier. The command's
short form is `fedbroker dead`."""),
)
app.command(
    "fedbroker.cli.doctor:doctor",
    name="doctor",
    help=_unwrapped("""Check the broker with a coordinator's needs, and say what to do.

Prints one line per finding: ok, warning or problem, with the code of an error that docs/errors.md explains. Checks each
host of the URL (name, port, certificate, login, version, alarms), permissions, existing queues, speed, the largest
message, timeouts and clocks; with --cohort, also the cohort's queues, silos and their versions. Leaves nothing on the
broker and disturbs no silo. The exit code is 0, or that of the first problem."""),
    help_epilogue="""Examples:
  export FEDBROKER_URL_FILE=broker.url
  fedbroker doctor
  fedbroker doctor --cohort airports
  fedbroker doctor --json | jq '.[] | select(.level != "ok")'""",
)
app.command(
    "fedbroker.cli.local:key",
    name="key",
    help=_unwrapped("""Make a coordinator's secret key, and print its public key.

Silos that name the public key in [security] of their settings accept work from this coordinator. The secret stays in
the file, which only its owner may read. The TOML file that a context's `keys` names refers to it."""),
    help_epilogue="Examples:\n  fedbroker key secret.key    makes the secret if the file does not exist",
)
app.command(
    "fedbroker.cli.new:new",
    name="new",
    help=_unwrapped("""Write a program that runs at once into a new directory.

The directory gets a program, the same as a notebook, a silo's settings, data of three silos, and a README."""),
    help_epilogue="Examples:\n  fedbroker new delays\n  cd delays && python program.py",
)
app.command(
    "fedbroker.cli.local:version",
    name="version",
    help="Print the installed versions of fedbroker and its main dependencies.",
    help_epilogue="Examples:\n  fedbroker version\n  fedbroker version --json | jq -r .fedbroker",
)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code (see :mod:`fedbroker.console`)."""
    run(lambda: app(exit_on_error=False, print_error=False, result_action="return_value"))
