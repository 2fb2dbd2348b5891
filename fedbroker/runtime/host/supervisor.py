"""Small host process between the owner and ``worker_binary``: isolates it, and never lets it outlive the owner.

It consists of two processes. The *supervisor* holds the socket's directory and waits for the end of its owner. The
*child*, which it forks, is the first process of the PID namespace, so that the kernel kills every remaining process in
it when the child ends. The child starts the runtime, reports when it listens, and relays connections. Each process
notices the end of its parent by the end of a stream, which works however the parent dies. This module uses the standard
library and its neighbours ``namespace``, ``relay`` and ``confinement`` only, never asyncio or grpc: it starts in some
30 ms and stays small.

The owner reads one line per event from standard output: ``directory PATH`` if a namespace is used, then ``ready
TARGET``, ``forbidden WHY`` (no namespace available) or ``failed WHY``; and ``exited HOW`` when the runtime ended by
itself. Before ``ready`` comes ``confinement LINE``: the active defences, see ``confinement``. Standard error carries
the runtime's log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeAlias

from fedbroker.runtime.host.confinement import Needs, confine
from fedbroker.runtime.host.kernel import Forbidden, die_with_parent, enter_namespaces, raise_loopback

__all__ = [
    "CONFINEMENT",
    "DIRECTORY",
    "EXITED",
    "FAILED",
    "FORBIDDEN",
    "READY",
    "longest_base",
    "main",
    "relay",
    "remove",
]

DIRECTORY = "directory"
CONFINEMENT = "confinement"
READY = "ready"
FORBIDDEN = "forbidden"
FAILED = "failed"
EXITED = "exited"

_INNER_PORT = 8000  # any port is free, as the namespace is empty
_SOCKET_NAME = "runtime.sock"
_PREFIX = "fedbroker-"
_RANDOM_BYTES = 8  # the directory's name cannot be guessed, so no other user can create it first
_MAX_ADDRESS_BYTES = 107  # sun_path is 108 bytes with its terminating zero
# Between two attempts to connect to the runtime's port until it listens.
_POLL_SECONDS = 0.005
# For an orderly end of the runtime, which a computation may block. SIGKILL then loses nothing: values are not stored.
_TERM_SECONDS = 0.7
_ORDERLY_SECONDS = 1.2  # for the child to end the runtime; more than _TERM_SECONDS
_READ_BYTES = 64 << 10  # of the log at a time: as many as a pipe holds by default
# The runtime's default of 10000 MiB overflows to 1808; protocol buffers end at 2048.
_MESSAGE_MIB = 2047
# OOM score: kill the runtime first. Its work can be retried; that of other processes on this machine may not be.
_OOM_SCORE = "1000"

# The C library gives each thread a stack as large as this limit, and all of it counts as allocated. The runtime's
# threads use some 20 KiB of the usual 8 MiB, and a failed allocation of a stack may hang the runtime (see ``stall``).
_STACK_BYTES = 1 << 20
# Copied at a time from the owner to the runtime.
_COPY_BYTES = 256 << 10
# The largest pipe that Linux allows an ordinary user by default (fs.pipe-max-size).
_PIPE_BYTES = 1 << 20
# Of a relay thread, which calls a few functions only; the default of 8 MiB counts as allocated.
_RELAY_STACK_BYTES = 256 << 10

_Pump: TypeAlias = Callable[[socket.socket, socket.socket], None]


class _Program(NamedTuple):
    """The program to run, and its limits.

    Attributes:
        binary: its path.
        memory: bytes that it may allocate.
        files: paths that it may read and execute.
        without: defences to leave out, with the reason.
    """

    binary: str
    memory: int
    files: list[str]
    without: dict[str, str]


def longest_base() -> int:
    """Return the maximal length, in bytes, of the path in which the private directory is made."""
    return _MAX_ADDRESS_BYTES - len(f"/{_PREFIX}{'00' * _RANDOM_BYTES}/{_SOCKET_NAME}")


def main(argv: list[str]) -> NoReturn:
    """Run ``namespace|none BINARY BASE OWNER BYTES FILES WITHOUT``: one runtime until standard input or OWNER ends.

    BYTES is the memory that the runtime may allocate. FILES are the paths that it may read and execute, one per line.
    WITHOUT are defences to leave out, ``NAME=REASON``, one per line.
    """
    isolation, binary, base, owner, memory, files, without = argv
    reasons = dict(line.split("=", 1) for line in without.split("\n") if line)
    program = _Program(binary, int(memory), [path for path in files.split("\n") if path], reasons)
    _reset_signals()
    os.umask(0o077)
    directory, listener = None, None
    try:
        owner_handles = _owner_handles(int(owner))
        if isolation == "namespace":
            directory = os.path.join(base, _PREFIX + os.urandom(_RANDOM_BYTES).hex())
            os.mkdir(directory, 0o700)
            _report(DIRECTORY, directory)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.path.join(directory, _SOCKET_NAME))
            listener.listen()
            enter_namespaces()
        _supervise(owner_handles, program, listener)
    except Forbidden as error:
        _report(FORBIDDEN, str(error))
    except OSError as error:
        _report(FAILED, str(error))
    finally:
        if directory is not None:
            remove(directory)
    os._exit(0)


def _reset_signals() -> None:
    """Reset signal handling that the owner may have changed. Only SIGTERM ends this process, with a clean-up."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner handles Ctrl-C
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit)


def _exit(_signal: int, _frame: object) -> NoReturn:
    sys.exit()


def _owner_handles(owner: int) -> list[int]:
    """Return handles that become readable when the owner ends: standard input, and a pidfd of the owner.

    The pidfd is for an owner that has forked: its child holds the other end of our standard input open.
    """
    handles = [sys.stdin.fileno()]
    with contextlib.suppress(OSError):  # some sandboxes have no pidfds
        handles.append(os.pidfd_open(owner))
    if os.getppid() != owner:
        raise OSError("the owner ended before its runtime was up")
    return handles


def _report(word: str, text: str) -> None:
    with contextlib.suppress(OSError):  # the owner is gone
        os.write(sys.stdout.fileno(), os.fsencode(f"{word} {' '.join(text.splitlines())}\n"))


def remove(directory: str) -> None:
    """Remove the private directory and its socket if they exist.

    The supervisor and the owner both call this, in either order.
    """
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, _SOCKET_NAME))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


# --- the supervisor ---


def _supervise(owner_handles: list[int], program: _Program, listener: socket.socket | None) -> None:
    """Fork the child. When the owner ends, stop the child in order, or else by force."""
    own_end, child_end = socket.socketpair()
    child = os.fork()
    if child == 0:
        own_end.close()
        _run_child(child_end, program, listener)
    child_end.close()
    if listener is not None:
        listener.close()
    try:
        ends: list[int | socket.socket] = [*owner_handles, own_end]
        select.select(ends, [], [])
        own_end.shutdown(socket.SHUT_WR)
        select.select([own_end], [], [], _ORDERLY_SECONDS)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# --- the child ---


def _run_child(parent: socket.socket, program: _Program, listener: socket.socket | None) -> NoReturn:
    """Run as the child: keep the runtime until it or the parent ends."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        os.set_blocking(sys.stderr.fileno(), False)
        if listener is not None:
            raise_loopback()
            _serve(parent, program, _INNER_PORT, listener)
        else:
            with _free_port() as reservation:
                _serve(parent, program, reservation.getsockname()[1], None)
    except Forbidden as error:
        _report(FORBIDDEN, str(error))
    except OSError as error:
        _report(FAILED, str(error))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _free_port() -> socket.socket:
    """Return a socket that holds a free port as long as it is open, so that no other process is given the port.

    gRPC servers set SO_REUSEPORT, so two runtimes on the same port would both start. This socket shares its port with
    ours and does not listen.
    """
    for family in (socket.AF_INET6, socket.AF_INET):
        with contextlib.suppress(OSError):  # IPv6 may be switched off
            reservation = socket.socket(family, socket.SOCK_STREAM)
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reservation.bind(("", 0))
            return reservation
    raise OSError("no free port")


def _serve(parent: socket.socket, program: _Program, port: int, listener: socket.socket | None) -> None:
    """Start the runtime, report when it is ready, relay connections and its log; end it when the parent ends."""
    worker = _Worker(program, Needs(program.files, port, None if listener is None else _directory_of(listener)))
    target = f"127.0.0.1:{port}" if listener is None else f"unix:{listener.getsockname()}"
    always_read: list[int | socket.socket] = [parent, worker.output]
    ready = False
    try:
        while True:
            sources = always_read if listener is None or not ready else [*always_read, listener]
            readable, _, _ = select.select(sources, [], [], None if ready else _POLL_SECONDS)
            if parent in readable:
                return
            if worker.output in readable and not worker.forward():
                _report(EXITED, worker.reap())
                return
            if not ready and _accepts(port):
                _report(READY, target)
                ready = True
            if listener is not None and listener in readable:
                _accept(listener, port)
    finally:
        worker.end()


def _directory_of(listener: socket.socket) -> str:
    return os.path.dirname(os.fsdecode(listener.getsockname()))


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _accept(listener: socket.socket, port: int) -> None:
    connection, _ = listener.accept()
    try:
        relay(connection, port)
    except OSError:
        connection.close()


class _Worker:
    """The C++ runtime's process.

    Attributes:
        output: read end of the pipe that carries its output; ends with the process.
    """

    def __init__(self, program: _Program, needs: Needs) -> None:
        self.output, sink = os.pipe()
        self._lost_bytes = 0
        self._pid: int | None = os.fork()
        if self._pid == 0:
            _execute(program, needs, sink)
        os.close(sink)

    def forward(self) -> bool:
        """Forward some of its output; drop bytes that the owner does not read in time. Return False at the end."""
        output = os.read(self.output, _READ_BYTES)
        if not output:
            return False
        notice = f"[{self._lost_bytes} bytes of the log were lost here]\n".encode() if self._lost_bytes else b""
        try:
            self._lost_bytes = len(output) - max(0, os.write(sys.stderr.fileno(), notice + output) - len(notice))
        except OSError:
            self._lost_bytes += len(output)
        return True

    def end(self) -> None:
        """Send SIGTERM, and SIGKILL after ``_TERM_SECONDS``; do nothing if it has ended."""
        if self._pid is None:
            return
        os.kill(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + _TERM_SECONDS
        while select.select([self.output], [], [], max(0.0, deadline - time.monotonic()))[0] and self.forward():
            pass
        self.reap()

    def reap(self) -> str:
        """Return how the process ended. Kill it first: this has no effect on a process that is about to end."""
        assert self._pid is not None, "reaped once"
        pid, self._pid = self._pid, None
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _execute(program: _Program, needs: Needs, sink: int) -> NoReturn:
    binary = program.binary
    try:
        die_with_parent()
        _limit(program.memory)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(sink, 2)
        _report(CONFINEMENT, confine(needs, program.without).line)
        os.dup2(sink, 1)
        os.execv(binary, [binary, f"--port={needs.port}", f"--grpc_max_message_length_megabytes={_MESSAGE_MIB}"])
    except OSError as error:
        os.write(sink, f"{binary}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _limit(memory: int) -> None:
    """Limit the memory of this process and the program that it executes next; make it the OOM killer's first choice.

    The limit counts private writable memory, not reserved address space. TensorFlow's allocator then fails only the
    computation that asks for too much. Core dumps are off: one would put clients' data onto the disk.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, _STACK_BYTES))
    # With 0 the kernel still runs a handler that core_pattern pipes to. With 1, its mark for that handler, it runs
    # none, and no core file is that small (do_coredump in fs/coredump.c).
    core = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # /proc may be read-only
        file.write(_OOM_SCORE)


# --- the relay: from a Unix socket outside to a TCP port inside the namespace ---


def relay(outer: socket.socket, port: int) -> None:
    """Connect to a port on the loopback and relay an accepted connection to it until either side closes.

    Returns at once: two threads do the work and close both sockets at the end.

    Raises:
        OSError: nothing listens on the port.
    """
    inner = socket.create_connection(("127.0.0.1", port))
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.stack_size(_RELAY_STACK_BYTES)
    threading.Thread(target=_both_ways, args=(outer, inner), daemon=True).start()


def _both_ways(outer: socket.socket, inner: socket.socket) -> None:
    with outer, inner:
        outwards = threading.Thread(target=_one_way, args=(_splice, inner, outer), daemon=True)
        outwards.start()
        _one_way(_copy, outer, inner)
        outwards.join()


def _one_way(pump: _Pump, source: socket.socket, sink: socket.socket) -> None:
    """Move bytes until either side ends; then shut down both, since gRPC has no use for a half-open connection."""
    try:
        pump(source, sink)
    except OSError:
        pass  # a reset by either side counts as its end
    finally:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(_COPY_BYTES))
    while count := source.recv_into(buffer):
        sink.sendall(buffer[:count])


def _splice(source: socket.socket, sink: socket.socket) -> None:
    reader, writer = os.pipe()
    try:
        with contextlib.suppress(OSError):  # the pipe stays small if the user has reached the limit for pipes
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        while pending := os.splice(source.fileno(), writer, _PIPE_BYTES):
            while pending:
                pending -= os.splice(reader, sink.fileno(), pending)
    finally:
        os.close(reader)
        os.close(writer)
