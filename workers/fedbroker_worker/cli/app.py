"""The command line ``fedbroker-silo``: run a silo, or check its settings.

Each command imports its modules when it runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, NoReturn

import cyclopts

from fedbroker import console
from fedbroker_worker import worker_version

__all__ = ["app", "main"]

_EPILOGUE: Final = (
    "Exit codes: 0 success, 2 settings, 3 broker, 4 cohort, silo or data, 5 other errors, 130 interrupted. "
    "FEDBROKER_DEBUG=1 adds tracebacks."
)

_RUN_EXAMPLES: Final = """Examples:
  fedbroker-silo run                                     reads ./silo.toml
  fedbroker-silo run --config /etc/fedbroker/silo.toml
  FEDBROKER_SILO_BROKER=amqps://me:secret@broker.example/ fedbroker-silo run
  FEDBROKER_DATA__FLIGHTS__FILE=flights.parquet fedbroker-silo run"""

_CHECK_EXAMPLES: Final = """Examples:
  fedbroker-silo check --config silo.toml
  fedbroker-silo check --seconds 600                         for large data
  fedbroker-silo check --json | jq .sources.flights.rows"""

_DATA_EXAMPLES: Final = """Examples:
  fedbroker-silo data
  fedbroker-silo data flights --head 20 --config silo.toml
  fedbroker-silo data flights --json | jq '.sources.flights.columns[] | select(.nulls > 0)'"""

Json = Annotated[bool, cyclopts.Parameter(negative="", help="Print JSON.")]
ServiceConfig = Annotated[
    Path, cyclopts.Parameter(help="The silo's settings file, by which the service is found. Needs no secret.")
]
ControlSocket = Annotated[Path | None, cyclopts.Parameter(help="The service's control socket, if it is elsewhere.")]
Seconds = Annotated[float, cyclopts.Parameter(validator=cyclopts.validators.Number(gt=0, lte=86_400))]

_AUDIT_EXAMPLES: Final = """Examples:
  fedbroker-silo audit --config silo.toml
  fedbroker-silo audit --last 20
  fedbroker-silo audit --show 7                                   line 7 in full
  fedbroker-silo audit --file audit.log.1 --json | jq '.lines[] | select(.outcome == "refused")'"""

_STATUS_EXAMPLES: Final = """Examples:
  fedbroker-silo status --config silo.toml
  sudo fedbroker-silo status --config /etc/fedbroker/silos/ewr.toml
  fedbroker-silo status --json | jq .state"""

_PAUSE_EXAMPLES: Final = """Examples:
  fedbroker-silo pause --config silo.toml
  sudo fedbroker-silo pause --config /etc/fedbroker/silos/ewr.toml"""

_RESUME_EXAMPLES: Final = """Examples:
  fedbroker-silo resume --config silo.toml
  fedbroker-silo resume --socket /run/fedbroker-silo/ewr/control.sock"""

_BOARD_EXAMPLES: Final = """Examples:
  fedbroker-silo board --config silo.toml
  sudo fedbroker-silo board --config /etc/fedbroker/silos/ewr.toml
  FEDBROKER_SILO_BOARD_TOKEN_FILE=token fedbroker-silo board --listen 0.0.0.0:8081"""

_REPLAY_EXAMPLES: Final = """Examples:
  fedbroker dead-letters show 53c2 --cohort airports --save item    at the coordinator
  fedbroker-silo replay item --config silo.toml
  fedbroker-silo replay item --blobs blobs --out outputs
  fedbroker-silo replay item --pdb"""

_KEY_EXAMPLES: Final = """Examples:
  fedbroker-silo key secret.key    makes the secret if the file does not exist
  fedbroker-silo key /etc/fedbroker/secret.key"""

_INSTALL_EXAMPLES: Final = """Examples:
  fedbroker-silo install ewr --systemd --dry-run
  fedbroker-silo install ewr --systemd                       as root
  fedbroker-silo install ewr --compose --out /srv/fedbroker
  fedbroker-silo install ewr --kubernetes --force"""

app = cyclopts.App(
    name="fedbroker-silo",
    help="Run a silo of a fedbroker cohort. It computes over its own data and needs no open port.",
    help_epilogue=_EPILOGUE,
    version=worker_version,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
app.register_install_completion_command(  # pyright: ignore[reportUnknownMemberType] -- its keywords have no types
    help="Install completion of commands and options for your shell (bash, zsh, fish): --shell names another one.",
)


def main() -> NoReturn:
    """Run the command line and end the process with its exit code (see :mod:`fedbroker.console`).

    All resources are closed by then. The process skips the interpreter's clean-up: a duckdb query may still run in its
    thread, and duckdb's messages about that would bury the one line that reports the error.
    """
    try:
        console.run(lambda: app(exit_on_error=False, print_error=False, result_action="return_value"))
    except SystemExit as exit_:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_.code if isinstance(exit_.code, int) else 0)


@app.command(help_epilogue=_RUN_EXAMPLES)
def run(
    *,
    config: Path = Path("silo.toml"),
    ready_file: Path | None = None,
    alive_file: Path | None = None,
    hung_after: Annotated[float | None, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))] = None,
    until_eof: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Join the cohort and answer work items until SIGTERM or Ctrl-C.

    After the first signal, the silo completes its running work and leaves the cohort. A second signal ends it at once.
    The silo reconnects to a lost broker. Relative paths in the settings are relative to the settings file, whose
    directory is the silo's working directory.

    Parameters
    ----------
    config
        The silo's settings file. Environment variables override its keys: FEDBROKER_SILO_KEY sets `key` of [silo],
        FEDBROKER_SILO_KEY_FILE names a file with the value, and FEDBROKER_DATA__NAME__KEY sets `key` of [data.NAME].
    ready_file
        Create this file when the silo has joined its cohort, and remove it when the silo leaves.
    alive_file
        Touch this file every 5 seconds while the silo is alive. Restart the silo if the file is older than a minute.
        systemd gets a watchdog message at the same time (Type=notify, WatchdogSec).
    hung_after
        End with exit code 1 if the event loop does not run for this many seconds, and write the position of each thread
        to standard error. For containers: their engine restarts a process that ended, not one that hangs.
    until_eof
        Also stop, as after a signal, when standard input ends, as it does when the parent process exits.
    """
    from fedbroker_worker.config import load
    from fedbroker_worker.daemon import run_silo

    run_silo(load(config), ready_file=ready_file, alive_file=alive_file, hung_after=hung_after, until_eof=until_eof)


@app.command(help_epilogue=_CHECK_EXAMPLES)
def check(
    *,
    config: Path = Path("silo.toml"),
    seconds: Seconds = 60.0,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> int:
    """Check the broker, the C++ runtime, the policy and each data source, and say what to do.

    Prints one line per finding: ok, warning or problem, with the code of an error
    that docs/errors.md explains. Then prints the columns and rows of each source.
    Reads all data: NULLs and values that do not convert are problems, a source
    without rows is a warning. Does not join the cohort, leaves nothing on the
    broker and disturbs no running silo. The exit code is 0, or that of the first
    problem.

    Parameters
    ----------
    config
        The silo's settings file.
    seconds
        Time limit for reading one source.
    json
        Print JSON.
    """
    from fedbroker_worker.cli.check import check_silo
    from fedbroker_worker.config import load

    return check_silo(load(config), seconds=seconds, as_json=json)


@app.command(help_epilogue=_DATA_EXAMPLES)
def data(
    name: str | None = None,
    /,
    *,
    config: Path = Path("silo.toml"),
    head: Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=0, lte=10_000))] = 5,
    seconds: Seconds = 60.0,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> int:
    """Print a summary and the first rows of this silo's data, on this terminal only.

    For each source: its SQL, the number of rows and clients, and for each column
    the announced type, the number of NULLs, the least and the greatest value. Needs
    no broker and sends nothing. Errors of the data go to standard error, with the
    SQL to add. The exit code is 0, or that of the first error.

    Parameters
    ----------
    name
        The source; all sources without it.
    config
        The silo's settings file.
    head
        The number of first rows to print.
    seconds
        Time limit for reading one source.
    json
        Print JSON, with long texts in full.
    """
    from fedbroker_worker.cli.data import print_data
    from fedbroker_worker.config import load

    return print_data(load(config), name, head=head, seconds=seconds, as_json=json)


@app.command(help_epilogue=_KEY_EXAMPLES)
def key(file: Path, /) -> None:
    """Make this silo's secret key, and print its public key.

    With the public key, a coordinator verifies this silo's signatures and encrypts
    messages for it: give it to the coordinator's administrator. The secret stays in
    the file, which only its owner may read. `secret_file` in [security] of the
    silo's settings names the file.

    Parameters
    ----------
    file
        The secret's file. An existing secret is kept.
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
    """Run a dead-lettered work item over this silo's data, and print the digests and sizes of its outputs.

    Needs no broker and sends nothing. The outputs are the bytes that the silo
    would send. The work item runs in this process, except in the C++ runtime, so
    that a debugger works.

    Parameters
    ----------
    file
        The work item: the raw body of a dead letter.
    config
        The silo's settings file.
    blobs
        Directory of blobs that the work item does not contain: files named by their digests.
    out
        Save the outputs in this directory, named by their digests.
    pdb
        Start the debugger before the first operation and where the work item fails. Sets no time limit.
    json
        Print JSON.
    """
    from fedbroker_worker.cli.replay import replay_file
    from fedbroker_worker.config import load

    replay_file(load(config), file, blobs=blobs, out=out, as_json=json, debug=pdb)


@app.command(help_epilogue=_AUDIT_EXAMPLES)
def audit(
    *,
    config: Path = Path("silo.toml"),
    file: Path | None = None,
    after: str = "",
    last: Annotated[int | None, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=0))] = None,
    show: Annotated[int | None, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))] = None,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Print the audit log of requests and outputs, and verify that no line was edited, removed or moved.

    Always verifies the whole log. The log cannot show that its last lines were removed: compare the hash of the last
    line with a hash that you noted elsewhere. Needs neither the broker's URL nor a
    secret nor a credential: only [policy], and the names in [security] coordinators.

    Parameters
    ----------
    config
        The silo's settings file. `audit_file` in its [policy] names the log.
    file
        Read this log instead, such as one that was moved away.
    after
        The hash of the last line of the previous log, from which this log continues.
    last
        Print only this number of lines, from the end.
    show
        Print only the line with this number, in full: what the work read, and what it released.
    json
        Print JSON.
    """
    from fedbroker_worker.cli.audit import print_audit
    from fedbroker_worker.config import AuditSettings, load_for_audit

    known = file is None or config.exists()  # a file that was moved elsewhere can be read without settings
    settings = load_for_audit(config) if known else AuditSettings(None, {})
    settings = settings if file is None else replace(settings, file=file)
    print_audit(settings, after=after, last=last, show=show, as_json=json)


@app.command(help_epilogue=_STATUS_EXAMPLES)
def status(
    *,
    config: ServiceConfig = Path("silo.toml"),
    socket: ControlSocket = None,
    json: Json = False,
) -> None:
    """Print what the running silo is doing: its state, its work, its counters and the policy in force.

    Talks to the service over a Unix socket that only its own user and root may use.
    Exits with 4 if no service runs, with 2 if this user may not ask it.
    """
    _control("status", config, socket, json)


@app.command(help_epilogue=_PAUSE_EXAMPLES)
def pause(
    *,
    config: ServiceConfig = Path("silo.toml"),
    socket: ControlSocket = None,
    json: Json = False,
) -> None:
    """Take the running silo out of its cohort, without stopping it, until `fedbroker-silo resume`.

    The silo tells coordinators that it leaves, so that they do not wait for it. It
    completes the sessions that it is in, and refuses new ones. Its service keeps
    running, connected, under its name. It stays paused when the service is started
    again.
    """
    _control("pause", config, socket, json)


@app.command(help_epilogue=_RESUME_EXAMPLES)
def resume(
    *,
    config: ServiceConfig = Path("silo.toml"),
    socket: ControlSocket = None,
    json: Json = False,
) -> None:
    """Bring a paused silo back into its cohort, at once."""
    _control("resume", config, socket, json)


@app.command(help_epilogue=_BOARD_EXAMPLES)
def board(
    *,
    config: ServiceConfig = Path("silo.toml"),
    listen: Annotated[
        str,
        cyclopts.Parameter(
            help="HOST:PORT. On another address than this machine's loopback, the page asks for a token: "
            "FEDBROKER_SILO_BOARD_TOKEN, FEDBROKER_SILO_BOARD_TOKEN_FILE or the one that is made and printed."
        ),
    ] = "127.0.0.1:8081",
    socket: ControlSocket = None,
    host: Annotated[tuple[str, ...], cyclopts.Parameter(help="A name under which a proxy serves the page.")] = (),
) -> None:
    """Serve a page for the silo's administrator: what was asked, by whom, what left, what was refused, what runs.

    Prints the page's URL and serves it until SIGTERM or Ctrl-C, in a process of
    its own: it asks the service over its control socket and changes nothing. Shows
    names, types and sizes, never values of the data. Needs the extra `board`.
    """
    from fedbroker_worker.cli.board import serve_page

    serve_page(config, listen, socket=socket, hosts=host)


def _control(command: str, config: Path, socket: Path | None, as_json: bool) -> None:
    from fedbroker_worker.cli.control import control_silo

    control_silo(command, config, socket=socket, as_json=as_json)


@app.command(help_epilogue=_INSTALL_EXAMPLES)
def install(
    directory: Path,
    /,
    *,
    systemd: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    compose: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    kubernetes: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    root: Path | None = None,
    out: Path | None = None,
    dry_run: Annotated[bool, cyclopts.Parameter(negative="")] = False,
    force: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Install a silo as a service, from the directory that `fedbroker admin enroll` wrote.

    Checks `silo.toml` and the secrets that it names first. Writes the broker's URL
    and each secret to a file of its own, for the service alone, and `silo.toml`
    without the URL. Prints each file, and what to do next; starts nothing.

    Parameters
    ----------
    directory
        The directory with `silo.toml` and the secrets.
    systemd
        Write a service of systemd: /etc/fedbroker/silos and /etc/systemd/system.
    compose
        Write a project of Compose, with one silo, into the directory of --out.
    kubernetes
        Write a manifest of the silo's secret, and `silo.toml` for its overlay, into the directory of --out.
    root
        For --systemd: the root directory of another machine or of an image. Default: this machine's.
    out
        For --compose and --kubernetes: the directory. Default: `fedbroker-` and the silo's name.
    dry_run
        Print what would be written, and write nothing.
    force
        Replace files of an earlier installation.
    """
    from fedbroker_worker.cli.install import install_silo

    kinds = {"systemd": systemd, "compose": compose, "kubernetes": kubernetes}
    install_silo(directory, kinds, root=root, out=out, dry_run=dry_run, force=force)
