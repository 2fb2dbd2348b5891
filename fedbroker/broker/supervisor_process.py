"""Start a supervisor process (``supervisor.py``), send it orders and read its reports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerStartError

__all__ = ["SupervisorProcess"]

_PROGRAM = Path(__file__).with_name("supervisor.py")
_AT_END = {True: "remove", False: "keep"}
# Seconds; more than the supervisor itself gives the VM and its helpers: _ORDERLY there, and a second.
_END_SECONDS = 20.0


class SupervisorProcess:
    """A supervisor process for one directory; it ends with this object's ``close`` or with this process.

    Args:
        directory: the node's directory.
        remove: True if the supervisor removes the directory at its end.

    Attributes:
        up: True if the node's VM runs, according to the last report.

    Raises:
        BrokerStartError: another node uses the directory.
    """

    def __init__(self, directory: Path, *, remove: bool) -> None:
        self.up = False
        self._rest = b""
        lock = _locked(directory)
        try:
            with (directory / "supervisor.txt").open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_PROGRAM), str(directory), str(os.getpid()), _AT_END[remove]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    bufsize=0,
                    cwd="/",
                    start_new_session=True,  # a terminal's Ctrl-C must not reach it
                    pass_fds=[lock],  # the directory stays locked while the supervisor lives
                )
        finally:
            os.close(lock)

    @property
    def alive(self) -> bool:
        """Return whether the supervisor itself runs."""
        return self._process.poll() is None

    def order(self, command: str) -> None:
        """Send an order: ``start``, ``kill`` or ``halt`` (gracefully) the VM, or ``stop`` both and itself."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{command}\n".encode())

    def read_reports(self, seconds: float | None) -> bool:
        """Read reports, waiting up to ``seconds`` for the first (for ever if None); return whether one arrived."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        if not select.select([pipe], [], [], seconds)[0]:
            return False
        data = os.read(pipe, 4096)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.up = line.startswith(b"up")
        if not data:
            self.up = False
        return bool(lines)

    def end_vm(self, command: str) -> None:
        """Order ``kill`` or ``halt``, and wait until the VM has ended; bounded in time."""
        self.order(command)
        deadline = Deadline.after(_END_SECONDS)
        while self.up and not deadline.passed():
            self.read_reports(deadline.left())

    def close(self, *, orderly: bool) -> None:
        """End the supervisor and the node: gracefully, or at once."""
        self.order("stop" if orderly else "kill")
        self.up = False
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel kills its children, too
            process.wait()
        process.stdout.close()


def _locked(directory: Path) -> int:
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise BrokerStartError(
            f"another private broker uses {directory}", hint="stop it, or give another directory"
        ) from error
    return lock
