"""The server under a page: uvicorn inside a running event loop, with a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from fedbroker.web.listen import Address

__all__ = ["serving", "stop_on_signals"]

MAX_CONNECTIONS: Final = 300
"""Connections at a time; further ones get status 503."""
STOP_SECONDS: Final = 1
"""Seconds for running requests once the server stops."""


def stop_on_signals() -> asyncio.Event:
    """Return an event that Ctrl-C and SIGTERM set from now on, instead of ending the process."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, address: Address) -> AsyncGenerator[Address]:
    """Serve an application within the block; yield the address with the port that it got.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    listener = address.bind()
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level=logging.CRITICAL,
            access_log=False,  # URLs may show a token
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
    running = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.wait(
            (running, started := asyncio.create_task(server.ready.wait())), return_when="FIRST_COMPLETED"
        )
        started.cancel()
        if running.done():
            running.result()
        yield Address(address.host, listener.getsockname()[1])
    finally:
        server.should_exit = True
        await running


class _Server(uvicorn.Server):
    """A server that leaves signals to the process, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
