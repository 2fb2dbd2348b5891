"""The control socket's file: taken over from a killed process, never from a running one, and removed at the end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["Listening", "SocketInUse", "connect", "listen", "peer_of"]

LONGEST_ADDRESS: Final = 107
"""Bytes of a Unix socket's address; a longer path is reached through the descriptor of its directory."""

BACKLOG: Final = 16
LOCK_SECONDS: Final = 5.0
LOCK_PAUSE: Final = 0.02
PROBE_SECONDS: Final = 1.0

_CREDENTIALS: Final = struct.Struct("3i")


class SocketInUse(Exception):
    """Another running process listens at the path."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket.

    Attributes:
        sock: the socket, which does not block.
        path: its file.
        identity: device and inode of the file.
    """

    sock: socket.socket
    path: Path
    identity: tuple[int, int]

    def remove(self) -> None:
        """Close the socket and remove its file, unless another process has replaced it. Blocks; never raises."""
        self.sock.close()
        with contextlib.suppress(OSError), _locked(self.path.parent):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self.identity:
                os.unlink(self.path)


def listen(path: Path) -> Listening:
    """Listen at a path that only this user (and root) may use. Blocks for seconds at most.

    The socket of a process that was killed is replaced.

    Raises:
        SocketInUse: another process listens there.
        OSError: the socket cannot be made, or the path is something else than a socket.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.parent) as directory:
        _make_room(path, directory)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(sock.fileno(), 0o600)  # the file has this mode from the start, with any umask
            sock.bind(_address(path, directory))
            sock.listen(BACKLOG)
            found = os.lstat(path)
        except BaseException:
            sock.close()
            raise
    return Listening(sock, path, (found.st_dev, found.st_ino))


def connect(path: Path, seconds: float) -> socket.socket:
    """Return a blocking socket that is connected to the path.

    Raises:
        OSError: nothing listens there, or this user may not connect.
        TimeoutError: the listener accepts no connection in time.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(seconds)
        with _opened(path.parent) as directory:
            sock.connect(_address(path, directory))
    except BaseException:
        sock.close()
        raise
    return sock


def peer_of(sock: socket.socket) -> int:
    """Return the user id of the process at the other end, as the kernel recorded it at the connection."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


def _make_room(path: Path, directory: int) -> None:
    """Remove the socket of a process that has ended."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "it exists and is no socket")
    if _is_answered(path, directory):
        raise SocketInUse
    os.unlink(path)


def _is_answered(path: Path, directory: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(_address(path, directory))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # a full backlog, or the socket of another user
            return True
        return True


@contextlib.contextmanager
def _locked(directory: Path) -> Generator[int]:
    """Hold the directory's lock, which processes that make or remove sockets in it take; the kernel frees it."""
    with _opened(directory) as descriptor:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(LOCK_PAUSE)
        yield descriptor


@contextlib.contextmanager
def _opened(directory: Path) -> Generator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _address(path: Path, directory: int) -> str:
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return str(path)
    return f"/proc/self/fd/{directory}/{path.name}"
