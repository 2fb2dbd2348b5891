"""Run a private node for a process that may die at any moment, and remove everything when it does.

A separate program (``python -I -S supervisor.py DIRECTORY PARENT keep|remove``) that imports nothing of fedbroker. It
is the parent of the Erlang VM and of its port mapper, obeys one order per line on its standard input (``start``,
``kill``, ``halt``, ``stop``), reports ``up PID`` and ``down STATUS`` on its standard output, and ends everything when
that input closes, when its parent has ended, or on SIGTERM. If it is killed itself, the kernel kills its children.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time

# Of linux/prctl.h: Python has no names for them.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORDERLY = 8.0  # seconds that the VM has for a graceful stop: it notifies clients and flushes queues in one or two
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_supervisor() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _report(line: str) -> None:
    with contextlib.suppress(OSError):  # the parent no longer reads
        os.write(1, f"{line}\n".encode())


class Supervisor:
    """The node of one directory. Its ``supervisor.json`` holds the commands, environment and output file.

    The command of epmd is null if another process runs it.
    """

    def __init__(self, directory: str, parent: int, *, keep: bool) -> None:
        self.directory = directory
        self.orderly = _ORDERLY if keep else 0.0  # data that will be removed needs no graceful stop
        self.server: subprocess.Popen[bytes] | None = None
        self.epmd: subprocess.Popen[bytes] | None = None
        self.wake, wake = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _, __: None)
        signal.signal(signal.SIGTERM, lambda _, __: setattr(self, "done", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.done = os.getppid() != parent
        self.poll = select.poll()
        self.poll.register(0, select.POLLIN | select.POLLHUP)
        self.poll.register(self.wake, select.POLLIN)
        self.parent = _pidfd(parent)
        if self.parent is not None:
            self.poll.register(self.parent, select.POLLIN)

    def spec(self) -> dict[str, object]:
        """Return the commands to run. They are read at each start, since the ports may have changed."""
        with open(os.path.join(self.directory, "supervisor.json"), encoding="utf-8") as file:
            spec: dict[str, object] = json.load(file)
        return spec

    def serve(self) -> None:
        """Obey orders until told to end."""
        while not self.done:
            for source, _ in self.poll.poll():
                if source == 0:
                    self.obey(os.read(0, 4096).decode())
                elif source == self.parent:
                    self.done = True
            self.reap()

    def obey(self, text: str) -> None:
        """Obey the order on each line; an empty text means that the input was closed."""
        self.done |= not text
        for order in text.split():
            if order == "start":
                self.start()
            elif order == "kill":
                self.end(orderly=0.0)
                _report("down killed")
            elif order == "halt":
                self.end(orderly=_ORDERLY)
                _report("down halted")
            elif order == "stop":
                self.done, self.orderly = True, _ORDERLY

    def start(self) -> None:
        """Start the port mapper, then the VM."""
        self.end(orderly=0.0)
        spec = self.spec()
        with open(str(spec["output"]), "ab") as output:
            common = {"env": spec["env"], "cwd": self.directory, "stdin": subprocess.DEVNULL, "stdout": output}
            common |= {"stderr": subprocess.STDOUT, "preexec_fn": _die_with_supervisor}
            if spec["epmd"] is not None:
                self.epmd = subprocess.Popen(spec["epmd"], **common)  # type: ignore[call-overload]
            self.server = subprocess.Popen(spec["server"], **common)  # type: ignore[call-overload]
        assert self.server is not None
        _report(f"up {self.server.pid}")

    def reap(self) -> None:
        """Reap ended children, and report the VM's end."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        if self.server is not None and self.server.poll() is not None:
            status = self.server.returncode
            self.end(orderly=0.0)
            _report(f"down {status}")
        elif self.server is not None:
            self.adopted()

    def adopted(self) -> bool:
        """Reap inherited processes; return whether children remain other than the VM and the port mapper."""
        own = {child.pid for child in (self.server, self.epmd) if child is not None and child.returncode is None}
        remaining = False
        for pid in _children() - own:
            with contextlib.suppress(ChildProcessError):
                remaining |= os.waitpid(pid, os.WNOHANG)[0] == 0
        return remaining

    def end(self, *, orderly: float) -> None:
        """End the VM, gracefully if ``orderly`` gives it time, then the port mapper and the helpers that they left."""
        for child, patience in ((self.server, orderly), (self.epmd, 0.0)):
            if child is None or child.poll() is not None:
                continue
            if patience:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(patience)
            child.kill()
            child.wait()
        self.server = self.epmd = None
        give_up = time.monotonic() + 1.0
        while self.adopted():  # the VM's helpers end by themselves after it
            if time.monotonic() > give_up:
                for pid in _children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable once the process has ended.

    The end of standard input does not suffice: a forked copy of the process may hold it open.
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return {int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _parent_of(pid) == os.getpid()}


def _parent_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def main() -> None:
    """Serve, then end everything and remove the directory if it was temporary."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    directory = sys.argv[1]
    keep = sys.argv[3] == "keep"
    supervisor = Supervisor(directory, int(sys.argv[2]), keep=keep)
    try:
        supervisor.serve()
    finally:
        supervisor.end(orderly=supervisor.orderly)
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
