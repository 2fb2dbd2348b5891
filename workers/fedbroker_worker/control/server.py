"""The service's end of the control socket. It never delays the silo's work, and its failures never end the silo."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fedbroker.log import get_logger
from fedbroker_worker.control.listening import Listening, SocketInUse, listen, peer_of
from fedbroker_worker.control.protocol import MAX_REQUEST, Malformed, Rejection, Watch, decode_request, encode
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from fedbroker_worker.control.protocol import Reply, Request

__all__ = ["ControlServer"]

_log = get_logger(__name__)

MAX_CONNECTIONS: Final = 16
"""The most connections at a time; further ones are closed. A page holds one, a command one for milliseconds."""

REQUEST_SECONDS: Final = 5.0
"""Seconds for a request to arrive: it is one short line of a process on the same machine."""

REPLY_SECONDS: Final = 10.0
"""Seconds for a reply to be taken."""

RETRY_SECONDS: Final = 1.0
"""Seconds until a path that another process holds is tried again: a process on standby waits for it."""

REMOVE_SECONDS: Final = 2.0
"""Seconds for the socket's file to be removed: a disk that hangs must not keep a silo from stopping."""

_DENIED: Final = "user {uid} may not control this silo: only the user of its service and root may"


class ControlServer:
    """Listens at a silo's control socket. Used with ``async with``.

    Args:
        path: the socket; None to listen nowhere.
        answer: returns the reply to a request; may wait.
    """

    def __init__(self, path: Path | None, answer: Callable[[Request], Awaitable[Reply]]) -> None:
        self._path = path
        self._answer = answer
        self._listening: Listening | None = None
        self._task: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._path is not None:
            self._task = asyncio.create_task(self._serve(self._path), name="control")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [*self._connections, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listening, self._listening = self._listening, None
        if listening is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REMOVE_SECONDS):
                    await in_thread(listening.remove, "control")

    async def _serve(self, path: Path) -> None:
        try:
            listening = self._listening = await self._listen(path)
        except OSError as error:
            _log.warning("control_unavailable", socket=str(path), reason=error.strerror or str(error))
            return
        server = await asyncio.start_unix_server(self._on_connection, sock=listening.sock, limit=MAX_REQUEST)
        _log.debug("control_listening", socket=str(path))
        async with server:
            await server.serve_forever()

    async def _listen(self, path: Path) -> Listening:
        """Listen; wait while another process holds the path."""
        is_reported = False
        while True:
            try:
                return await in_thread(partial(listen, path), "control")
            except SocketInUse:
                if not is_reported:
                    _log.warning("control_unavailable", socket=str(path), reason="another process of this silo has it")
                    is_reported = True
            await asyncio.sleep(RETRY_SECONDS)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse(reader, writer), name="control connection")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        try:
            uid = peer_of(writer.get_extra_info("socket"))
            reply = await self._reply(reader, uid)
            if reply is None:
                return
            async with asyncio.timeout(REPLY_SECONDS):
                writer.write(encode(reply))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError) as error:  # the other process is gone, or does not read
            _log.debug("control_reply_failed", reason=str(error) or "not taken in time")
        finally:
            writer.transport.abort()

    async def _reply(self, reader: asyncio.StreamReader, uid: int) -> Reply | None:
        """Return the reply; None if the other process has closed the connection."""
        if uid not in (0, os.geteuid()):
            _log.warning("control_request_rejected", uid=uid, reason="another user")
            return Rejection(_DENIED.format(uid=uid), denied=True)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await reader.readuntil(b"\n")
            request = decode_request(line)
        except asyncio.IncompleteReadError as error:
            return None if not error.partial else Rejection("the request is no whole line")
        except (asyncio.LimitOverrunError, Malformed) as error:
            _log.warning("control_request_rejected", uid=uid, reason=str(error))
            return Rejection(f"the request is not understood: {error}")
        except TimeoutError:
            return Rejection(f"no request within {REQUEST_SECONDS:g} s")
        return await self._answered(request, reader)

    async def _answered(self, request: Request, reader: asyncio.StreamReader) -> Reply | None:
        answering = asyncio.ensure_future(self._answer(request))
        # A process that watches may end while it waits; any other request is carried out to its end.
        leaving = asyncio.ensure_future(reader.read(1) if isinstance(request, Watch) else asyncio.Event().wait())
        either: list[asyncio.Future[Any]] = [answering, leaving]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        except Exception:
            _log.exception("control_request_failed", request=type(request).__name__)
            return Rejection("the silo could not do this: see its log")
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(*either, return_exceptions=True)
