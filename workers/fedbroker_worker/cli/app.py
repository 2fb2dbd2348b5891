"""The command line ``fedbroker-silo``: run a silo, or check its settings.

Each command imports its modules when it runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn

import cyclopts

from fedbroker import console
from fedbroker_worker import worker_version

__all__ = ["app", "main"]

_EPILOGUE: Final = (
    "Exit codes: 0 done, 2 your settings, 3 the broker, 4 cohort, silo or data, 5 anything else. "
    "FEDBROKER_DEBUG=1 adds tracebacks."
)

_RUN_EXAMPLES: Final = """Examples:
  fedbroker-silo run                                     with ./silo.toml
  fedbroker-silo run --config /etc/fedbroker/silo.toml
  FEDBROKER_SILO_BROKER=amqps://me:secret@broker.example/ fedbroker-silo run
  FEDBROKER_DATA__FLIGHTS__FILE=flights.parquet fedbroker-silo run"""

_CHECK_EXAMPLES: Final = """Examples:
  fedbroker-silo check --config silo.toml
  fedbroker-silo check --json | jq .sources.flights.rows"""

_AUDIT_EXAMPLES: Final = """Examples:
  fedbroker-silo audit --config silo.toml
  fedbroker-silo audit --last 20
  fedbroker-silo audit --file audit.log.1 --json | jq '.lines[] | select(.outcome == "refused")'"""

_REPLAY_EXAMPLES: Final = """Examples:
  fedbroker dead-letters show 53c2 --cohort airports --save item    at the coordinator's
  fedbroker-silo replay item --config silo.toml
  fedbroker-silo replay item --blobs blobs --out outputs
  fedbroker-silo replay item --pdb"""

_KEY_EXAMPLES: Final = """Examples:
  fedbroker-silo key secret.key        makes it, if it is not there; give its output to the coordinator's side
  fedbroker-silo key /etc/fedbroker/secret.key"""

app = cyclopts.App(
    name="fedbroker-silo",
    help="A silo of a fedbroker cohort: computes over its own data, only ever connects out.",
    help_epilogue=_EPILOGUE,
    version=worker_version,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code (see :mod:`fedbroker.console`).

    All resources are closed by then. The process skips the interpreter's clean-up: a duckdb query may still run in its
    thread, and duckdb's messages about that would bury the one line that reports the error.
    """
    try:
        console.run(lambda: app(exit_on_error=False, print_error=False, result_action="return_value"))
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


@app.command(help_epilogue=_RUN_EXAMPLES)
def run(
    *,
    config: Path = Path("silo.toml"),
    ready_file: Path | None = None,
    alive_file: Path | None = None,
    until_eof: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Join the cohort and answer its work until SIGTERM or Ctrl-C.

    The first signal lets the silo finish the work in hand and leave the cohort; the second one ends it at once. A lost
    broker is reconnected. Relative paths in the settings are relative to their file, in whose directory the silo works.

    Parameters
    ----------
    config
        The silo's settings. FEDBROKER_SILO_KEY in the environment overrides `key` of [silo], or
        FEDBROKER_SILO_KEY_FILE, with what is in that file; FEDBROKER_DATA__NAME__KEY overrides `key` of [data.NAME].
    ready_file
        Made once the silo is in its cohort, removed when it leaves.
    alive_file
        Touched every 5 seconds while the silo is alive: if it is older than a minute, start the silo again. systemd
        is told the same (Type=notify, WatchdogSec).
    until_eof
        Also stop, as after a signal, when standard input ends: with the process that started the silo.
    """
    from fedbroker_worker.config import load
    from fedbroker_worker.daemon import run_silo

    run_silo(load(config), ready_file=ready_file, alive_file=alive_file, until_eof=until_eof)


@app.command(help_epilogue=_CHECK_EXAMPLES)
def check(*, config: Path = Path("silo.toml"), json: Annotated[bool, cyclopts.Parameter(negative="")] = False) -> int:
    """Try everything that the silo needs, without joining the cohort: the broker, the C++ runtime, each data source.

    Prints a line for each finding (ok, warning or problem, with the error's code
    and what to do) and each source's columns and rows. Nothing is left on the
    broker, and a silo that runs is not disturbed. The exit code is 0
    without problems, else that of the first one.

    Parameters
    ----------
    config
        The silo's settings.
    json
        Print the findings as JSON.
    """
    from fedbroker_worker.cli.check import check_silo
    from fedbroker_worker.config import load

    return check_silo(load(config), as_json=json)


@app.command(help_epilogue=_KEY_EXAMPLES)
def key(file: Path, /) -> None:
    """Print the public key of this silo's secret; make the secret first, if it is not there.

    A holder of the public key can tell this silo's messages from others', and
    seal messages to it. The secret never leaves the file, which only its owner
    may read: name it in [security] of the silo's settings.

    Parameters
    ----------
    file
        The file with the secret.
    """
    from fedbroker.trust.keyring import public_key

    print(public_key(file))


@app.command(help_epilogue=_REPLAY_EXAMPLES)
def replay(
    file: Path,
    /,
    *,
    config: Path = Path("silo.toml"),
    blobs: Path | None = None,
    out: Path | None = None,
    pdb: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Run a saved work item over this silo's own data and print its outputs' digests and sizes.

    Everything but the C++ runtime runs in this process, so that a debugger
    works. No broker is needed, and nothing is sent. The outputs are
    the bytes that the silo would send.

    Parameters
    ----------
    file
        The work item: the body of a dead letter.
    config
        The silo's settings.
    blobs
        A directory with the blobs that are not in the file, each in a file that is named by its digest.
    out
        Save the outputs in this directory, each in a file that is named by its digest.
    pdb
        Stop in the debugger before the first operation and where it fails, without a time limit.
    json
        Print JSON.
    """
    from fedbroker_worker.cli.replay import rerun
    from fedbroker_worker.config import load

    rerun(load(config), file, blobs=blobs, out=out, as_json=json, debug=pdb)


@app.command(help_epilogue=_AUDIT_EXAMPLES)
def audit(
    *,
    config: Path = Path("silo.toml"),
    file: Path | None = None,
    after: str = "",
    last: Annotated[int | None, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=0))] = None,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Print the audit log and see that nothing in it was edited, removed or moved: who asked what, and what left.

    The whole log is verified in any case. That its last lines were cut off does not show: compare the hash of
    the last line with one that you noted elsewhere.

    Parameters
    ----------
    config
        The silo's settings, whose [policy] names the file.
    file
        The file itself, such as one that was moved away.
    after
        The hash of the last line of the file that this one goes on from.
    last
        Print so many lines, the last ones.
    json
        Print JSON.
    """
    from fedbroker_worker.cli.audit import print_audit
    from fedbroker_worker.config import load

    print_audit(file or load(config), after=after, last=last, as_json=json)
