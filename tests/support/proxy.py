"""A TCP proxy on the loopback that a test can cut, stall and restore: a network that fails on command."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

Direction = Literal["up", "down"]
"""``up`` means towards the broker."""


@dataclass
class Trap:
    """Triggers once, after this many bytes have passed.

    Attributes:
        sprung: set when it has triggered; may be waited for from another thread.
    """

    direction: Direction
    left: int
    sprung: threading.Event = field(default_factory=threading.Event)

    def springs(self, direction: Direction, size: int) -> bool:
        """Return whether these bytes trigger the trap."""
        if direction != self.direction or self.sprung.is_set():
            return False
        self.left -= size
        if self.left <= 0:
            self.sprung.set()
        return self.sprung.is_set()


class Proxy:
    """Forwards to the broker behind ``url``; its own ``url`` has the same user, password and vhost.

    Use as an async context manager.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._trap: Trap | None = None
        self._readers: set[asyncio.StreamReader] = set()
        self._lost: set[asyncio.StreamReader] = set()
        self._losing = False
        self._mending: asyncio.Task[None] | None = None
        self.connections = 0

    @property
    def url(self) -> str:
        """Return the URL for clients."""
        user = self._target.netloc.rpartition("@")[0]
        return self._target._replace(netloc=f"{user}@127.0.0.1:{self._port}").geturl()

    def cut(self) -> None:
        """Reset every connection; new ones may be made at once."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    def stall(self) -> None:
        """Forward nothing more, without notice to either side, like an unplugged cable."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward again."""
        self._flowing.set()

    def stall_after(self, size: int, direction: Direction) -> Trap:
        """Stall after this many further bytes in that direction."""
        self._trap = Trap(direction, size)
        return self._trap

    def swallow(self, seconds: float) -> None:
        """Drop all bytes for this many seconds, without notice to either side; existing connections stay dead."""
        self._losing = True
        self._lost |= self._readers
        self._mending = asyncio.create_task(self._mend(seconds))

    async def refuse_for(self, seconds: float) -> None:
        """Cut all connections, and accept none for this many seconds."""
        await self.refuse()
        self._mending = asyncio.create_task(self._mend(seconds))

    async def mended(self) -> None:
        """Wait until the network is restored."""
        if self._mending is not None:
            await self._mending

    async def _mend(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._losing = False
        if self._server is None:
            await self.accept()

    async def refuse(self) -> None:
        """Cut all connections, and accept none until ``accept``."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def accept(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._start, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        tasks = self._tasks | ({self._mending} if self._mending is not None else set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(reader, far_writer, "up"))
                both.create_task(self._forward(far_reader, writer, "down"))
        except* OSError:
            pass  # one side was reset, which ends the other too
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.transport.abort()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        self._readers.add(reader)
        if self._losing:
            self._lost.add(reader)
        try:
            while data := await reader.read(1 << 18):
                if self._trap is not None and self._trap.springs(direction, len(data)):
                    self.stall()
                await self._flowing.wait()
                if reader not in self._lost:
                    writer.write(data)
                    await writer.drain()
            if reader not in self._lost:
                writer.write_eof()
        finally:
            self._readers.discard(reader)
            self._lost.discard(reader)
