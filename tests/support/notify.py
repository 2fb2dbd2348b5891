"""The service manager's side of sd_notify: a datagram socket of the test."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.wait import LOADED


class NotifySocket:
    """A socket that receives systemd notifications.

    Attributes:
        path: for ``NOTIFY_SOCKET``.
    """

    def __init__(self, path: str, sock: socket.socket) -> None:
        self.path = path
        self._socket = sock

    def hear(self, seconds: float) -> dict[str, str] | None:
        """Return the fields of the next message, or None if none arrives in time."""
        self._socket.settimeout(seconds)
        try:
            text = self._socket.recv(4096).decode()
        except TimeoutError:
            return None
        return dict(line.split("=", 1) for line in text.splitlines())

    def until(self, word: str, seconds: float = 30.0 * LOADED) -> list[dict[str, str]]:
        """Return all messages up to the first that has the field."""
        heard: list[dict[str, str]] = []
        limit = time.monotonic() + seconds
        while not heard or word not in heard[-1]:
            message = self.hear(max(0.01, limit - time.monotonic()))
            assert message is not None, f"no {word} within {seconds:g} s, but {heard}"
            heard.append(message)
        return heard

    def drain(self) -> None:
        """Discard the messages received so far."""
        while self.hear(0.001) is not None:
            pass


@contextlib.contextmanager
def notify_socket(address: str | Path) -> Iterator[NotifySocket]:
    """Listen on an address; if it starts with ``@`` it is an abstract one."""
    path = str(address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + path[1:] if path.startswith("@") else path)
        yield NotifySocket(path, sock)
