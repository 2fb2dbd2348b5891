"""Bytes between a Unix socket outside and a TCP port inside a network namespace, at the least cost that was measured.

Runs in the small host process: imports the standard library only. Inwards a plain copy is the cheaper way (a spliced
stream reaches the runtime in single pages, which costs it more than the copy); outwards ``splice`` takes a third of
the copy's processor time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["relay"]

_BUFFER_BYTES = 256 << 10
_PIPE_BYTES = 1 << 20
_STACK_BYTES = 256 << 10

_Pump: TypeAlias = Callable[[socket.socket, socket.socket], None]


def relay(outer: socket.socket, port: int) -> None:
    """Join an accepted connection with a new one to that port on the loopback, until either side closes.

    Returns at once: two threads do the work, and close both sockets at the end.

    Raises:
        OSError: nothing listens on the port.
    """
    inner = socket.create_connection(("127.0.0.1", port))
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.stack_size(_STACK_BYTES)
    threading.Thread(target=_both_ways, args=(outer, inner), daemon=True).start()


def _both_ways(outer: socket.socket, inner: socket.socket) -> None:
    with outer, inner:
        outwards = threading.Thread(target=_one_way, args=(_splice, inner, outer), daemon=True)
        outwards.start()
        _one_way(_copy, outer, inner)
        outwards.join()


def _one_way(pump: _Pump, source: socket.socket, sink: socket.socket) -> None:
    """Move bytes until the end of either; then end both, since gRPC has no use for half a connection."""
    try:
        pump(source, sink)
    except OSError:
        pass  # reset by either side: the same as its end
    finally:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while count := source.recv_into(buffer):
        sink.sendall(buffer[:count])


def _splice(source: socket.socket, sink: socket.socket) -> None:
    reader, writer = os.pipe()
    try:
        with contextlib.suppress(OSError):  # it stays small where the user's pipes have reached their limit
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        while held := os.splice(source.fileno(), writer, _PIPE_BYTES):
            while held:
                held -= os.splice(reader, sink.fileno(), held)
    finally:
        os.close(reader)
        os.close(writer)
