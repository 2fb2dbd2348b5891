"""The small process between us and ``worker_binary``: makes its namespaces, starts it, relays to it, outlives nobody.

Our end of its standard input is a pipe that closes however we end, and that is its signal to stop. Imports the standard
library and its neighbours ``namespace`` and ``relay`` only.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import NoReturn

from fedbroker.runtime.namespace import Forbidden, die_with_parent, enter, raise_loopback
from fedbroker.runtime.relay import relay

__all__ = ["FORBIDDEN", "READY", "SOCKET_NAME", "main"]

READY = "ready"
FORBIDDEN = "forbidden"
SOCKET_NAME = "runtime.sock"

_INNER_PORT = 8000  # the namespace is empty: any port is free
_TERM_SECONDS = 1.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        binary: path of ``worker_binary``.
        directory: private; holds the socket; removed at the end.
        namespace: whether to isolate.
        start_seconds: that the binary may take to listen.
    """

    binary: str
    directory: str
    namespace: bool
    start_seconds: float


def main(argv: list[str]) -> NoReturn:
    """``binary directory namespace|none start_seconds``; prints ``ready TARGET`` or ``forbidden WHY``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    job = Job(argv[0], argv[1], argv[2] == "namespace", float(argv[3]))
    try:
        if job.namespace:
            enter()
            code = _as_first_process(job)
        else:
            code = _serve(job)
    except Forbidden as error:
        print(FORBIDDEN, error, flush=True)
        code = 1
    finally:
        shutil.rmtree(job.directory, ignore_errors=True)
    sys.stdout.flush()
    os._exit(code)


def _as_first_process(job: Job) -> int:
    """Fork the first process of the new PID namespace; with its end, the kernel ends everything in there."""
    child = os.fork()
    if child == 0:
        die_with_parent()
        try:
            raise_loopback()
            os._exit(_serve(job))
        except Forbidden as error:
            print(FORBIDDEN, error, flush=True)
        except BaseException as error:
            print(f"runtime host: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0x7F


def _serve(job: Job) -> int:
    """Start the binary, relay to it, and end it when standard input ends."""
    port = _INNER_PORT if job.namespace else _free_port()
    worker = subprocess.Popen(
        [job.binary, f"--port={port}"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        preexec_fn=_prepare_worker,
    )
    try:
        if not _listening(worker, port, job.start_seconds):
            return 1
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            target = f"127.0.0.1:{port}"
            if job.namespace:
                path = os.path.join(job.directory, SOCKET_NAME)
                listener.bind(path)
                listener.listen(16)
                target = f"unix:{path}"
            print(READY, target, flush=True)
            _attend(worker, listener if job.namespace else None, port)
    finally:
        _end(worker)
    return 0


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _listening(worker: subprocess.Popen[bytes], port: int, seconds: float) -> bool:
    """Wait until the binary accepts; False when it ended, our parent did, or the time was up."""
    until = time.monotonic() + seconds
    while worker.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
        if _parent_gone(_POLL_SECONDS):
            return False
    return False


def _attend(worker: subprocess.Popen[bytes], listener: socket.socket | None, port: int) -> None:
    """Accept and relay until the binary or our parent ends."""
    ended = os.pidfd_open(worker.pid)
    watched: list[int | socket.socket] = [sys.stdin.fileno(), ended, *([listener] if listener is not None else [])]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready or (sys.stdin.fileno() in ready and _parent_gone(0.0)):
            return
        if listener is not None and listener in ready:
            connection, _ = listener.accept()
            try:
                relay(connection, port)
            except OSError:
                connection.close()


def _parent_gone(seconds: float) -> bool:
    """Whether standard input ended; nothing is ever written to it."""
    ready, _, _ = select.select([sys.stdin.fileno()], [], [], seconds)
    return bool(ready) and not os.read(sys.stdin.fileno(), 64)


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    try:
        worker.wait(_TERM_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
