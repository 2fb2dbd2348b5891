"""The small process between us and ``worker_binary``: keeps it apart, and sees to it that it never outlives us.

Two processes come of it. The *keeper* holds the socket's directory and waits for the end of its owner; the *warden*,
its child, is the first process of the PID namespace, so that the kernel kills whatever is left in there when it ends.
The warden starts the runtime, reports when it listens, and relays. Each learns of the end of the one above from the
end of a stream, which no way of dying can prevent. Imports the standard library and its neighbours ``namespace`` and
``relay`` and the defences (``confinement``) only, never asyncio or grpc: it is up in some 30 ms and stays small.

What the owner reads from standard output is one line each: ``directory PATH`` where there is a namespace, then
``ready TARGET``, ``forbidden WHY`` (no namespace to be had) or ``failed WHY``; and ``exited HOW`` when the runtime
ended by itself. Before ``ready`` comes ``confinement LINE``: which defences hold the runtime, see ``confinement``.
Standard error carries the runtime's own words.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from typing import NamedTuple, NoReturn

from fedbroker.runtime.confinement import Needs, confine
from fedbroker.runtime.namespace import Forbidden, die_with_parent, enter, raise_loopback
from fedbroker.runtime.relay import relay

__all__ = ["CONFINEMENT", "DIRECTORY", "EXITED", "FAILED", "FORBIDDEN", "READY", "longest_base", "main", "remove"]

DIRECTORY = "directory"
CONFINEMENT = "confinement"
READY = "ready"
FORBIDDEN = "forbidden"
FAILED = "failed"
EXITED = "exited"

_INNER_PORT = 8000  # the namespace is empty: any port is free
_SOCKET_NAME = "runtime.sock"
_PREFIX = "fedbroker-"
_RANDOM_BYTES = 8
_LONGEST_ADDRESS = 107  # sun_path is 108 bytes with its terminating zero
_POLL_SECONDS = 0.005
_TERM_SECONDS = 0.7
_ORDERLY_SECONDS = 1.2  # for the warden to end the runtime; more than _TERM_SECONDS
_READ_BYTES = 64 << 10
# Its default of 10000 MiB overflows to 1808; protocol buffers end at 2048.
_MESSAGE_MIB = 2047
# Its values can be had again, at the worst by another attempt: those of whoever else is on this machine may not.
_TAKEN_FIRST = "1000"

# The C library gives each thread a stack as large as this limit, and all of it counts as allocated. Of the usual 8 MiB
# the runtime's threads use some 20 KiB, and one that cannot be had may hang it (see ``stall``).
_STACK_BYTES = 1 << 20


class _Program(NamedTuple):
    """What to run.

    Attributes:
        binary: its path.
        memory: bytes that it may allocate.
        files: paths that it may read and execute.
        without: defences that are not to be set up, with the reason.
    """

    binary: str
    memory: int
    files: list[str]
    without: dict[str, str]


def longest_base() -> int:
    """How long, in bytes, the path of the directory may be in which the private one is made."""
    return _LONGEST_ADDRESS - len(f"/{_PREFIX}{'00' * _RANDOM_BYTES}/{_SOCKET_NAME}")


def main(argv: list[str]) -> NoReturn:
    """``namespace|none BINARY BASE OWNER BYTES FILES WITHOUT``: keep one runtime until standard input or OWNER ends.

    BYTES are what the runtime may allocate. FILES are the paths that it may read and execute, a line each; WITHOUT are
    defences that are not to be set up, ``NAME=REASON``, a line each.
    """
    isolation, binary, base, owner, memory, files, without = argv
    reasons = dict(line.split("=", 1) for line in without.split("\n") if line)
    program = _Program(binary, int(memory), [path for path in files.split("\n") if path], reasons)
    _plain_signals()
    os.umask(0o077)
    directory, listener = None, None
    try:
        watched = _watched(int(owner))
        if isolation == "namespace":
            directory = os.path.join(base, _PREFIX + os.urandom(_RANDOM_BYTES).hex())
            os.mkdir(directory, 0o700)
            _say(DIRECTORY, directory)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.path.join(directory, _SOCKET_NAME))
            listener.listen()
            enter()
        _keep(watched, program, listener)
    except Forbidden as error:
        _say(FORBIDDEN, str(error))
    except OSError as error:
        _say(FAILED, str(error))
    finally:
        if directory is not None:
            remove(directory)
    os._exit(0)


def _plain_signals() -> None:
    """Undo what the owner may have blocked or ignored. Of the polite signals only SIGTERM counts: clean up and end."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def _watched(owner: int) -> list[int]:
    """What becomes readable when the owner ends: our standard input, and a handle on the owner itself.

    The handle is for an owner that has forked: its child holds the other end of our standard input open.
    """
    handles = [sys.stdin.fileno()]
    with contextlib.suppress(OSError):  # some sandboxes have no such handles
        handles.append(os.pidfd_open(owner))
    if os.getppid() != owner:
        raise OSError("the owner ended before its runtime was up")
    return handles


def _say(word: str, text: str) -> None:
    with contextlib.suppress(OSError):  # the owner is gone: nobody to tell
        os.write(sys.stdout.fileno(), os.fsencode(f"{word} {' '.join(text.splitlines())}\n"))


def remove(directory: str) -> None:
    """Remove the private directory, or what is left of it; keeper and owner both do, whoever comes first."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, _SOCKET_NAME))
    with contextlib.suppress(OSError):
        os.rmdir(directory)


# --- the keeper ---


def _keep(watched: list[int], program: _Program, listener: socket.socket | None) -> None:
    """Fork the warden; when the owner ends, have it end in order, or else by force."""
    ours, theirs = socket.socketpair()
    warden = os.fork()
    if warden == 0:
        ours.close()
        _guard(theirs, program, listener)
    theirs.close()
    if listener is not None:
        listener.close()
    try:
        ends: list[int | socket.socket] = [*watched, ours]
        select.select(ends, [], [])
        ours.shutdown(socket.SHUT_WR)
        select.select([ours], [], [], _ORDERLY_SECONDS)
    finally:
        os.kill(warden, signal.SIGKILL)
        os.waitpid(warden, 0)


# --- the warden ---


def _guard(leash: socket.socket, program: _Program, listener: socket.socket | None) -> NoReturn:
    """Be the warden: run the runtime until it ends or the leash does."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        os.set_blocking(sys.stderr.fileno(), False)
        if listener is not None:
            raise_loopback()
            _serve(leash, program, _INNER_PORT, listener)
        else:
            with _free_port() as held:
                _serve(leash, program, held.getsockname()[1], None)
    except Forbidden as error:
        _say(FORBIDDEN, str(error))
    except OSError as error:
        _say(FAILED, str(error))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _free_port() -> socket.socket:
    """A free port, held for as long as the socket is open, so that nobody else is given it.

    gRPC's servers share their port with whoever asks for that, so two runtimes that were given the same one would both
    start. This socket shares it with ours, and does not listen.
    """
    for family in (socket.AF_INET6, socket.AF_INET):
        with contextlib.suppress(OSError):  # IPv6 may be switched off
            held = socket.socket(family, socket.SOCK_STREAM)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(("", 0))
            return held
    raise OSError("no free port")


def _serve(leash: socket.socket, program: _Program, port: int, listener: socket.socket | None) -> None:
    """Start the runtime, say when it is ready, relay to it, pass its words on; end it at the end of the leash."""
    worker = _Worker(program, Needs(program.files, port, None if listener is None else _directory_of(listener)))
    target = f"127.0.0.1:{port}" if listener is None else f"unix:{listener.getsockname()}"
    waiting: list[int | socket.socket] = [leash, worker.words]
    ready = False
    try:
        while True:
            sources = waiting if listener is None or not ready else [*waiting, listener]
            readable, _, _ = select.select(sources, [], [], None if ready else _POLL_SECONDS)
            if leash in readable:
                return
            if worker.words in readable and not worker.pass_on():
                _say(EXITED, worker.reap())
                return
            if not ready and _accepts(port):
                _say(READY, target)
                ready = True
            if listener is not None and listener in readable:
                _admit(listener, port)
    finally:
        worker.end()


def _directory_of(listener: socket.socket) -> str:
    return os.path.dirname(os.fsdecode(listener.getsockname()))


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _admit(listener: socket.socket, port: int) -> None:
    connection, _ = listener.accept()
    try:
        relay(connection, port)
    except OSError:
        connection.close()


class _Worker:
    """The C++ runtime's process.

    Attributes:
        words: end of a pipe: what it writes. It ends with the process.
    """

    def __init__(self, program: _Program, needs: Needs) -> None:
        self.words, sink = os.pipe()
        self._lost = 0
        self._pid: int | None = os.fork()
        if self._pid == 0:
            _become(program, needs, sink)
        os.close(sink)

    def pass_on(self) -> bool:
        """Hand some of its words to the owner; what the owner is too slow to read is lost. False at their end."""
        words = os.read(self.words, _READ_BYTES)
        if not words:
            return False
        notice = f"[{self._lost} bytes of the log were lost here]\n".encode() if self._lost else b""
        try:
            self._lost = len(words) - max(0, os.write(sys.stderr.fileno(), notice + words) - len(notice))
        except OSError:
            self._lost += len(words)
        return True

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that does not help soon; nothing if it has ended."""
        if self._pid is None:
            return
        os.kill(self._pid, signal.SIGTERM)
        until = time.monotonic() + _TERM_SECONDS
        while select.select([self.words], [], [], max(0.0, until - time.monotonic()))[0] and self.pass_on():
            pass
        self.reap()

    def reap(self) -> str:
        """How it ended. One that still lives is killed; that changes nothing for one that is about to end."""
        assert self._pid is not None, "reaped once"
        pid, self._pid = self._pid, None
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _become(program: _Program, needs: Needs, sink: int) -> NoReturn:
    binary = program.binary
    try:
        die_with_parent()
        _limit(program.memory)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(sink, 2)
        _say(CONFINEMENT, confine(needs, program.without).line)
        os.dup2(sink, 1)
        os.execv(binary, [binary, f"--port={needs.port}", f"--grpc_max_message_length_megabytes={_MESSAGE_MIB}"])
    except OSError as error:
        os.write(sink, f"{binary}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _limit(memory: int) -> None:
    """Have this process, and what it becomes, allocate no more than so many bytes; be the kernel's first choice.

    What counts is private and writable memory: address space that is only reserved does not. TensorFlow's allocator
    then fails the one computation that asks for too much. A core dump would put clients' data onto the disk.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, _STACK_BYTES))
    # With 0 the kernel still runs a handler that core_pattern pipes to. With 1, its mark for that handler, it runs
    # none, and no file is as small (do_coredump in fs/coredump.c).
    core = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # /proc may be read-only
        file.write(_TAKEN_FIRST)
