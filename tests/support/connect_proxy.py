"""An HTTP proxy on the loopback that opens tunnels by CONNECT, as a company's way out does."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection
from types import TracebackType
from typing import Self

import h11

__all__ = ["ConnectProxy"]


class ConnectProxy:
    """Opens tunnels to some ports of the loopback, for every host name. Use as an async context manager.

    Attributes:
        tunnels: the targets of the tunnels opened so far, ``host:port``.
        refusals: the status codes of the refusals so far.
        silent: accept connections and requests, and answer none.
    """

    def __init__(self, *ports: int, user: str = "", password: str = "", port: int = 0) -> None:
        self._ports: Collection[int] = ports
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._login = f"Basic {login}" if user else ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.tunnels: list[str] = []
        self.refusals: list[int] = []
        self.silent = False
        self.port = port

    async def start(self) -> None:
        """Accept connections, at the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Accept no more connections and reset the tunnels, as a proxy does that dies."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            connection = h11.Connection(h11.SERVER)
            event: object = h11.NEED_DATA
            while not isinstance(event, h11.Request):
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(4096))
                event = connection.next_event()
                if isinstance(event, h11.ConnectionClosed):
                    return
            if self.silent:
                await asyncio.Event().wait()
            status, reason = self._judge(event)
            answer = connection.send(h11.Response(status_code=status, reason=reason, headers=[]))
            writer.write(answer or b"")
            if status != 200:
                self.refusals.append(status)
                return
            target = event.target.decode()
            self.tunnels.append(target)
            far_reader, far = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            self._writers.add(far)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far))
                group.create_task(_copy(far_reader, writer))
        except* (OSError, h11.RemoteProtocolError):
            pass
        finally:
            for one in (writer, far):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    def _judge(self, request: h11.Request) -> tuple[int, bytes]:
        headers = {name: value.decode() for name, value in request.headers}
        if self._login and headers.get(b"proxy-authorization") != self._login:
            return 407, b"Proxy Authentication Required"
        if request.method != b"CONNECT" or int(request.target.rpartition(b":")[2]) not in self._ports:
            return 403, b"Forbidden"
        return 200, b"Connection established"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
