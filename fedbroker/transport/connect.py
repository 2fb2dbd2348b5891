"""One connection to the broker, or a typed error that says why there is none; aio-pika's own errors end here.

Imports transport.url and the base.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable
from typing import Final, TypeVar

import aio_pika
import aiormq
import aiormq.exceptions
from yarl import URL

from fedbroker.errors import BrokerError, BrokerRefused, BrokerUnreachable, ConfigError
from fedbroker.transport.url import Address

__all__ = ["Connected", "connect", "guarded"]

_T = TypeVar("_T")

READ_BUFFER: Final = 1024 * 1024
"""Bytes of the socket's read buffer; asyncio's own 64 KiB stop the reader after every frame of a blob."""

UNACKNOWLEDGED: Final = 20_000
"""Milliseconds after which the kernel gives up a connection that takes our data without a word (a cut cable)."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for an orderly goodbye."""


async def guarded(awaitable: Awaitable[_T]) -> _T:
    """The awaitable's result; aiormq cancels those who wait for a connection that goes, who were not cancelled at all.

    Raises:
        ConnectionError: the connection went.
    """
    try:
        return await awaitable
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the connection was closed") from None


class Connected:
    """An open connection; close it with ``close``, which always ends, and leaves nothing running.

    Attributes:
        amqp: the aio-pika connection.
    """

    def __init__(self, amqp: aio_pika.Connection, sockets: _Sockets) -> None:
        self.amqp = amqp
        self._sockets = sockets

    async def close(self) -> None:
        """Say goodbye for at most 2 s, then cut the connection."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await guarded(self.amqp.close())
        except Exception:  # the broker may be gone in any way; we leave all the same
            pass
        finally:
            self._sockets.abort()
            await _finish(self.amqp)


async def connect(address: Address, name: str) -> Connected:
    """Connect and log in.

    The caller sets the time-out; cancelling leaves nothing behind.

    Args:
        address: where to.
        name: what the broker's operator sees the connection called.

    Raises:
        BrokerUnreachable: nothing that speaks AMQP answers.
        BrokerRefused: wrong user, password or vhost.
        ConfigError: a certificate or key of ours cannot be read.
    """
    _quiet()
    sockets = _Sockets(address)
    amqp = aio_pika.Connection(URL(address.secret), client_properties={"connection_name": name})
    amqp.kwargs |= {"transport_factory": sockets}
    try:
        await amqp.connect()
    except BaseException as error:
        sockets.abort()
        await _finish(amqp)
        if isinstance(error, Exception):
            raise _explained(error, address) from None
        raise
    return Connected(amqp, sockets)


class _Sockets(aiormq.TransportFactory):
    """Opens the socket itself, to tell its errors apart and to be able to cut it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; aiormq calls this."""
        address = self._address
        context = await self._context(kwargs["ssl_context_provider"]) if address.tls else None
        try:
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context, limit=READ_BUFFER)
        except ssl.SSLError as error:
            raise BrokerUnreachable(
                f"no TLS connection with {address.shown}: {error.reason or error}",
                hint="see that the port is the broker's TLS port and that `cafile` in the URL is its CA",
            ) from None
        except socket.gaierror:
            raise BrokerUnreachable(
                f"the broker's host name {address.host!r} cannot be resolved", hint="correct the broker's URL"
            ) from None
        except OSError as error:
            raise BrokerUnreachable(
                f"nothing answers at {address.shown}: {error.strerror or error}",
                hint="start the broker, or correct host and port in its URL",
            ) from None
        transport = writer.transport
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)
        self._writer = writer
        return reader, writer

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self._writer is not None:
            transport: asyncio.WriteTransport = self._writer.transport
            transport.abort()

    async def _context(self, provider: object) -> ssl.SSLContext:
        assert isinstance(provider, aiormq.SSLContextProvider)
        try:
            return await provider.get_context()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"a certificate or key in the broker's URL cannot be used: {error}",
                hint="correct cafile, certfile or keyfile",
            ) from None


def _explained(error: Exception, address: Address) -> Exception:
    """The same in our words."""
    match error:
        case BrokerError() | ConfigError():
            return error
        case aiormq.exceptions.ProbableAuthenticationError():
            return BrokerRefused(
                f"the broker at {address.host}:{address.port} refused the login of user {address.user!r}",
                hint="correct user and password in the broker's URL, or create the user (`rabbitmqctl add_user`)",
            )
        case aiormq.exceptions.AuthenticationError():
            return BrokerRefused(
                f"the broker at {address.host}:{address.port} does not offer this way to log in",
                hint="correct `auth` in the broker's URL (PLAIN or EXTERNAL), or enable it at the broker",
            )
        case aiormq.exceptions.InvalidFrameError() if "Connection.OpenOk" in str(error):
            # aiormq keeps the broker's words to itself here; it is always 530 NOT_ALLOWED
            return BrokerRefused(
                f"the broker at {address.host}:{address.port} refused vhost {address.vhost!r} to user {address.user!r}",
                hint="correct the vhost in the URL, or at the broker `rabbitmqctl add_vhost` and `set_permissions`",
            )
        case _:
            return BrokerUnreachable(
                f"what answers at {address.host}:{address.port} does not speak AMQP as we do ({_words(error)})",
                hint="correct host, port and scheme (amqp or amqps) of the broker's URL",
            )


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


async def _finish(amqp: aio_pika.Connection) -> None:
    """Have the connection's object know that it is closed: else it starts a task when it is garbage-collected."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await guarded(amqp.close())
    except Exception:  # as above
        pass


def _quiet() -> None:
    """Keep the libraries' own logs to themselves, unless somebody wants them: every event is logged by us, once."""
    for name in ("aio_pika", "aiormq"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
