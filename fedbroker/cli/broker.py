"""``fedbroker broker``: a RabbitMQ node for this machine only."""

from __future__ import annotations

import contextlib
import json as json_lib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cyclopts

from fedbroker.broker import PrivateBroker
from fedbroker.errors import BrokerLost

__all__ = ["app"]

app = cyclopts.App(name="broker", help="A RabbitMQ node for this machine only.", help_format="plaintext")

_EXAMPLES = """Examples:
  fedbroker broker run                              any free port, nothing kept
  fedbroker broker run --port 5673 --dir ./broker   always there, with its data
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
    loopback only, and leaves nothing behind.

    Parameters
    ----------
    port
        Where to listen for AMQP; a free port if not given.
    dir
        Where to keep data, log and password for the next run; a temporary directory if not given.
    json
        Print the line as JSON: url, port, directory.
    """
    with contextlib.suppress(KeyboardInterrupt), _sigterm_as_interrupt(), PrivateBroker(port, dir) as node:
        facts = {"url": node.url, "port": node.port, "directory": str(node.directory)}
        print(json_lib.dumps(facts) if json else f"ready {node.url}", flush=True)
        if sys.stderr.isatty():
            print("Ctrl-C stops it", file=sys.stderr)
        node.wait()
        raise BrokerLost("the private broker ended by itself", hint="see its log: run it again with --dir")


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
