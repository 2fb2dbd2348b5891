"""A TCP proxy on the loopback that delays every byte in both directions. A child process.

Data is passed on as it arrived, after the delay. The amount of delayed data is not bounded: a line with high latency
and unlimited throughput.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from benchmarks._children import say, serve


class End(asyncio.Protocol):
    """One end of a connection; the other end sends the bytes that it receives, later."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._late: deque[bytes | None] = deque()  # None is the end
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes | None] = []
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        for data in self._early:
            self.send(data)

    def data_received(self, data: bytes) -> None:
        self._keep(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep(None)

    def send(self, data: bytes | None) -> None:
        """Send data once connected; None closes the connection."""
        if self._transport is None:
            self._early.append(data)
        elif data is None:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write(data)

    def _keep(self, data: bytes | None) -> None:
        self._late.append(data)
        asyncio.get_running_loop().call_later(self._delay, self._let_go)

    def _let_go(self) -> None:
        if self.other is not None:
            self.other.send(self._late.popleft())


class Near(End):
    """The end that a client has connected to; connects the far end."""

    def __init__(self, delay: float, port: int, tasks: set[asyncio.Task[Any]]) -> None:
        super().__init__(delay)
        self.other = End(delay)
        self.other.other = self
        self._port = port
        self._tasks = tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._connect(loop))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        far = self.other
        assert far is not None
        try:
            await loop.create_connection(lambda: far, "127.0.0.1", self._port)
        except OSError:
            self.send(None)


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Listen on a free port, and forward to the port in the first message."""
    tasks: set[asyncio.Task[Any]] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Near(first["seconds"], first["port"], tasks), "127.0.0.1", 0)
    say(port=server.sockets[0].getsockname()[1])
    async for _ in words:
        pass


if __name__ == "__main__":
    serve(main)
