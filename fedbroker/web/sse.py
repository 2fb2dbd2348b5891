"""Server-sent events of one changing state, to many clients: changes are gathered, encoded once, and sent to all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from fedbroker.log import get_logger

__all__ = ["Feed", "message"]

_log = get_logger(__name__)

INTERVAL: Final = 0.1
"""Seconds between two messages: changes within them are sent together."""
MAX_CLIENTS: Final = 100
"""Clients at a time; further ones are refused."""
MAX_QUEUED: Final = 50
"""Messages that wait for one client, which are five seconds of changes. A slower one is dropped, and may come back."""
KEEP_ALIVE: Final = 15.0
"""Seconds without a message after which a ``ping`` is sent: proxies close silent connections, often after 30 s, and a
browser finds out that a connection is dead only if it expects to hear something."""
RETRY: Final = b"retry: 1000\n\n"
"""How long a browser waits before it connects again: a second."""


def message(event: str, data: bytes) -> bytes:
    """Return one server-sent event; ``data`` is one line, such as JSON."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


class _Client:
    """A connected client and its messages."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_QUEUED)
        self.sending: asyncio.Task[None] | None = None

    def put(self, text: bytes) -> bool:
        """Add a message; return False if too many wait."""
        with contextlib.suppress(asyncio.QueueFull):
            self.queue.put_nowait(text)
            return True
        return False

    def drop(self) -> None:
        """Stop sending, also in the middle of a message that the client does not read."""
        if self.sending is not None:
            self.sending.cancel()


class Feed:
    """Sends each client the whole state first, and then its changes.

    Args:
        snapshot: returns the state, as messages.
        changes: returns the changes since the last call, as messages, or nothing.
        interval: seconds between two messages with changes.
    """

    def __init__(
        self, snapshot: Callable[[], bytes], changes: Callable[[], bytes], *, interval: float = INTERVAL
    ) -> None:
        self._snapshot = snapshot
        self._changes = changes
        self._interval = interval
        self._clients: set[_Client] = set()
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def clients(self) -> int:
        """Number of connected clients."""
        return len(self._clients)

    def changed(self) -> None:
        """Send the changes within the interval."""
        self._wake.set()

    async def run(self) -> None:
        """Send changes until it is cancelled; clients are then disconnected."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self.flush():
                    await asyncio.sleep(self._interval)
        finally:
            self._closed = True
            for client in self._clients:
                client.drop()

    def flush(self) -> bool:
        """Send the changes now; return whether anything has changed."""
        if not (text := self._changes()):
            return False
        for client in [client for client in self._clients if not client.put(text)]:
            _log.warning("page_client_dropped", reason="it reads more slowly than messages come")
            self._clients.discard(client)
            client.drop()
        return True

    def response(self) -> Response:
        """Return a response that sends the state and its changes until the client leaves."""
        if self._closed or len(self._clients) >= MAX_CLIENTS:
            return PlainTextResponse("too many clients\n", status_code=503, headers={"retry-after": "5"})
        return _EventStream(self)

    async def serve(self, receive: Receive, send: Send) -> None:
        """Send to one client until it leaves, is too slow, or the feed ends."""
        client = _Client()
        self.flush()  # the others get what the new client's snapshot contains already
        client.put(RETRY + self._snapshot())
        self._clients.add(client)
        client.sending = asyncio.create_task(_send_all(client, send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((client.sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            for task in (client.sending, leaving):
                task.cancel()
            await asyncio.gather(client.sending, leaving, return_exceptions=True)


class _EventStream(Response):
    """A response without an end."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            await self._feed.serve(receive, send)
        with contextlib.suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_all(client: _Client, send: Send) -> None:
    while True:
        text = message("ping", b"0")  # a comment would reach no script
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE):
                text = await client.queue.get() or b""
        await send({"type": "http.response.body", "body": text, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
