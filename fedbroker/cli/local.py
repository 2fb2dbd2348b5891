"""Commands that need no broker at hand: ``fedbroker broker``, ``fedbroker key`` and ``fedbroker version``."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json as json_lib
import platform
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import cyclopts

import fedbroker
from fedbroker.cli.common import Json, print_json
from fedbroker.errors import BrokerLost, BrokerStartError

__all__ = ["app", "key", "version"]

app = cyclopts.App(name="broker", help_format="plaintext")

_EXAMPLES = """Examples:
  fedbroker broker run                              on any free port
  fedbroker broker run --port 5673 --dir ./broker   keeps its data
  fedbroker broker run --json | jq -r .url          for programs"""


@app.command(help_epilogue=_EXAMPLES)
def run(
    *,
    port: Annotated[int | None, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1, lte=65535))] = None,
    dir: Path | None = None,
    json: Annotated[bool, cyclopts.Parameter(negative="")] = False,
) -> None:
    """Run a private RabbitMQ node in the foreground until Ctrl-C or SIGTERM.

    Prints one line once it accepts connections: `ready amqp://user:password@127.0.0.1:port/`. It listens on the
    loopback interface only, and leaves nothing behind.

    Parameters
    ----------
    port
        The port for AMQP; a free port if not given.
    dir
        The directory that keeps data, log and password for the next run; a temporary directory if not given.
    json
        Print the line as JSON: url, port, directory.
    """
    from fedbroker.broker import PrivateBroker

    with contextlib.suppress(KeyboardInterrupt), _sigterm_as_interrupt(), PrivateBroker(port, dir) as node:
        if json:
            print(json_lib.dumps({"url": node.url, "port": node.port, "directory": str(node.directory)}), flush=True)
        else:
            print(f"ready {node.url}", flush=True)
        if sys.stderr.isatty():
            print("Ctrl-C stops it", file=sys.stderr)
        node.wait()
        raise BrokerLost("the private broker ended by itself", hint="see its log: run it again with --dir")


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Generator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def key(file: Path, /) -> None:
    """Print the public key of a coordinator's secret; make the secret first if the file does not exist.

    Parameters
    ----------
    file
        The file with the secret.
    """
    from fedbroker.trust.keyring import public_key

    print(public_key(file))


def version(*, json: Json = False) -> None:
    """Print the installed versions of fedbroker and its main dependencies."""
    versions = {
        "fedbroker": fedbroker.__version__,
        "python": platform.python_version(),
        "tensorflow-federated": _installed("tensorflow-federated"),
        "aio-pika": _installed("aio-pika"),
        "rabbitmq-server": _server(),
    }
    if json:
        print_json(versions)
        return
    for name, found in versions.items():
        print(f"{name} {found or 'not installed'}")


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _server() -> str | None:
    from fedbroker.broker.server import find_server

    try:
        home = find_server()
    except BrokerStartError:
        return None
    plugins = sorted((home / "plugins").glob("rabbit-*"))
    return plugins[-1].name.removeprefix("rabbit-").removesuffix(".ez") if plugins else "unknown version"
