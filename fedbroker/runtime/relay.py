"""Bytes between a Unix socket outside and a TCP port inside a network namespace, moved by the kernel.

``splice`` hands pages from socket to pipe to socket, so that nothing is copied through this process. Runs in the small
host process: imports the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading

__all__ = ["relay"]

_PIPE_BYTES = 1 << 20
_STACK_BYTES = 256 << 10
_MOVE = 1  # SPLICE_F_MOVE


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
        back = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
        back.start()
        _pump(outer, inner)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes one way until the end of either; then end both, since gRPC has no use for half a connection."""
    reader, writer = os.pipe()
    try:
        with contextlib.suppress(OSError):  # the pipe may stay small where a limit forbids more
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        _splice_all(source.fileno(), writer, reader, sink.fileno())
    except OSError:
        pass  # reset by either side: the same as its end
    finally:
        os.close(reader)
        os.close(writer)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _splice_all(source: int, writer: int, reader: int, sink: int) -> None:
    while held := os.splice(source, writer, _PIPE_BYTES, flags=_MOVE):
        while held:
            held -= os.splice(reader, sink, held, flags=_MOVE)
