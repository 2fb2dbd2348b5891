"""Connect to the broker, or raise a typed error that gives the reason: aio-pika's errors are translated here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Mapping
from typing import Final

import aio_pika
import aiormq
import aiormq.exceptions
from yarl import URL

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, BrokerRefused, BrokerUnreachable, ConfigError
from fedbroker.transport.amqp.alarm import Alarm
from fedbroker.transport.amqp.exceptions import (
    LIMIT_REACHED,
    broker_words,
    guarded,
    limit_reached,
    show_close_reasons,
)
from fedbroker.transport.amqp.message import install_tolerant_decoders
from fedbroker.transport.amqp.proxy import open_tunnel
from fedbroker.transport.amqp.url import Address, Endpoint

__all__ = ["Connected", "accepts_connections", "connect", "open_streams", "tls_context", "untrusted"]

_HINT_HOSTS: Final = "start the broker's nodes, or correct hosts and ports in its URL"

READ_BUFFER: Final = 1024 * 1024
"""Bytes of the socket's read buffer: asyncio's default of 64 KiB pauses reading after every frame of a blob."""

USER_TIMEOUT: Final = 20_000
"""Milliseconds after which the kernel closes a connection whose peer acknowledges no data (a cut cable)."""

HOST_TIMEOUT: Final = 5.0
"""Seconds for one of several hosts to accept the connection, before the next host is tried."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds for closing a connection in an orderly way, before it is cut: the broker may be gone."""

MAX_CAUSES: Final = 8
"""Errors followed along ``__cause__`` and ``__context__``; the chain may be a cycle."""

# OpenSSL's verify codes (X509_V_ERR_…).
_UNKNOWN_CA: Final = (18, 19, 20, 21)  # self-signed certificates and unknown issuers
_EXPIRED: Final = (9, 10)  # not valid yet, and not valid any more
_OTHER_NAME: Final = (62, 64)  # another host name, another IP address
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it requires a client certificate, and the URL names none",
    "UNKNOWN_CA": "our client certificate is from a CA that it does not trust",
    "CERTIFICATE_EXPIRED": "our client certificate has expired",
    "CERTIFICATE_REVOKED": "our client certificate was revoked",
    "BAD_CERTIFICATE": "our client certificate is missing or invalid",
    "UNSUPPORTED_CERTIFICATE": "our certificate is not valid for clients",
    "CERTIFICATE_UNKNOWN": "our client certificate is invalid",
    "HANDSHAKE_FAILURE": "no client certificate, or no common cipher",
}
"""The broker's reasons to refuse our certificate, by OpenSSL's alert names."""


class Connected:
    """An open connection. ``close`` always returns and leaves no task running.

    Attributes:
        amqp: the aio-pika connection.
        endpoint: the broker host at the other end.
        alarm: the broker's alarm for memory or disk space.
    """

    def __init__(self, amqp: aio_pika.Connection, sockets: _Sockets, endpoint: Endpoint) -> None:
        self.amqp = amqp
        self.endpoint = endpoint
        self.alarm = Alarm()
        if amqp.transport is not None:
            self.alarm.watch(amqp.transport.connection)
        self._sockets = sockets

    async def close(self) -> None:
        """Close the connection in an orderly way within 2 s, then abort it."""
        try:
            with contextlib.suppress(Exception):  # the broker may be gone, with any error; the socket is aborted below
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await guarded(self.amqp.close())
        finally:
            self._sockets.abort()
            await _mark_closed(self.amqp)


async def connect(address: Address, name: str, deadline: Deadline | None = None) -> Connected:
    """Connect and log in to the first of the broker's hosts that accepts us.

    The caller sets the timeout. Cancelling leaves no socket or task behind.

    Args:
        address: the broker's address.
        name: the connection's name in the broker's management views.
        deadline: the caller's deadline, so that a silent host leaves time for the next one.

    Raises:
        BrokerUnreachable: no host answers with AMQP.
        BrokerRefused: wrong user, password or vhost.
        ConfigError: a certificate or key of ours cannot be read.
    """
    _silence_loggers()
    show_close_reasons()
    install_tolerant_decoders()
    failed: dict[Endpoint, BrokerError] = {}
    hosts = address.next_order()
    for tried, endpoint in enumerate(hosts, 1):
        try:
            async with asyncio.timeout(_time_for_host(len(hosts) - tried, deadline)):
                return await _connect_to(endpoint, address, name)
        except TimeoutError:
            failed[endpoint] = BrokerUnreachable("no answer in time", retryable=True, hint=_HINT_HOSTS)
        except BrokerError as error:
            failed[endpoint] = error
    raise _combined_error(failed)


async def open_streams(
    endpoint: Endpoint, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a TCP connection to the endpoint, through its proxy if it has one; with TLS if ``context`` is given.

    Raises:
        BrokerUnreachable: the proxy opens no tunnel.
        OSError: the connection or the handshake failed.
    """
    if endpoint.proxy is None:
        return await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, limit=READ_BUFFER)
    tunnel = await open_tunnel(endpoint.proxy, endpoint.host, endpoint.port)
    name = None if context is None else endpoint.host
    try:
        return await asyncio.open_connection(sock=tunnel, ssl=context, server_hostname=name, limit=READ_BUFFER)
    except BaseException:
        tunnel.close()
        raise


async def accepts_connections(endpoint: Endpoint) -> bool:
    """Return whether the endpoint accepts TCP connections."""
    try:
        async with asyncio.timeout(HOST_TIMEOUT):
            _, writer = await open_streams(endpoint)
    except (OSError, TimeoutError, BrokerUnreachable):
        return False
    writer.transport.abort()
    return True


def _time_for_host(others: int, deadline: Deadline | None) -> float | None:
    """Return the seconds for one host while ``others`` remain to be tried; None: as long as the caller waits."""
    if others == 0:
        return None
    return HOST_TIMEOUT if deadline is None else min(HOST_TIMEOUT, deadline.left() / (others + 1))


def _combined_error(failed: Mapping[Endpoint, BrokerError]) -> BrokerError:
    """Return one error for all hosts. A refusal takes precedence: it tells more than the silence of other hosts."""
    if len(failed) == 1:
        return next(iter(failed.values()))
    refusals = [error for error in failed.values() if isinstance(error, BrokerRefused)]
    reasons = "; ".join(f"{endpoint}: {error.what}" for endpoint, error in failed.items())
    if refusals:
        return BrokerRefused(f"every host of the broker refused the connection ({reasons})", hint=refusals[0].hint)
    retryable = all(error.retryable for error in failed.values())
    return BrokerUnreachable(
        f"none of the broker's hosts can be reached ({reasons})", retryable=retryable, hint=_HINT_HOSTS
    )


async def _connect_to(endpoint: Endpoint, address: Address, name: str) -> Connected:
    sockets = _Sockets(endpoint, address.tls)
    amqp = aio_pika.Connection(URL(endpoint.secret), client_properties={"connection_name": name})
    amqp.kwargs |= {"transport_factory": sockets}
    try:
        await amqp.connect()
    except BaseException as error:
        sockets.abort()
        await _mark_closed(amqp)
        if isinstance(error, Exception):
            raise _typed_error(error, endpoint, address) from None
        raise
    return Connected(amqp, sockets, endpoint)


class _Sockets(aiormq.TransportFactory):
    """Transport factory that opens the socket itself, to tell its errors apart and to be able to abort it."""

    def __init__(self, endpoint: Endpoint, tls: bool) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; called by aiormq."""
        endpoint = self._endpoint
        context = await tls_context(kwargs["ssl_context_provider"]) if self._tls else None
        try:
            reader, writer = await open_streams(endpoint, context)
        except ssl.SSLError as error:
            raise tls_error(endpoint.shown, error) from None
        except socket.gaierror:
            raise BrokerUnreachable(
                f"the broker's host name {endpoint.host!r} cannot be resolved",
                retryable=True,  # in a container cluster, a host name exists only once its first container runs
                hint="correct the broker's URL",
            ) from None
        except OSError as error:
            raise BrokerUnreachable(
                f"no server is listening at {endpoint.shown}: {error.strerror or error}",
                retryable=True,
                hint="start the broker, or correct host and port in its URL",
            ) from None
        transport = writer.transport
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
        self._writer = writer
        return reader, writer

    def abort(self) -> None:
        """Abort the connection if it is open."""
        if self._writer is not None:
            transport: asyncio.WriteTransport = self._writer.transport
            transport.abort()


async def tls_context(provider: object) -> ssl.SSLContext:
    """Return the TLS context of aiormq's provider.

    Raises:
        ConfigError: a certificate or key that the broker's URL names cannot be used.
    """
    assert isinstance(provider, aiormq.SSLContextProvider)
    try:
        return await provider.get_context()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"a certificate or key in the broker's URL cannot be used: {error}",
            hint="correct cafile, certfile or keyfile",
        ) from None


def _typed_error(error: Exception, endpoint: Endpoint, address: Address) -> Exception:
    """Translate an error of aio-pika into a typed error."""
    if address.tls and (refusal := _of_certificate(endpoint, error)) is not None:
        return refusal
    match error:
        case BrokerError() | ConfigError():
            return error
        case aiormq.exceptions.ProbableAuthenticationError():
            return BrokerRefused(
                f"the broker at {endpoint} refused the login of user {address.user!r}",
                hint="correct user and password in the broker's URL, or create the user (`rabbitmqctl add_user`)",
            )
        case aiormq.exceptions.AuthenticationError():
            return BrokerRefused(
                f"the broker at {endpoint} does not offer this authentication mechanism",
                hint="correct `auth` in the broker's URL (PLAIN or EXTERNAL), or enable it at the broker",
            )
        case aiormq.exceptions.InvalidFrameError() if "Connection.OpenOk" in str(error):
            words = broker_words(error)  # of the reply 530 NOT_ALLOWED
            if LIMIT_REACHED in words:
                return limit_reached(f"the broker at {endpoint} refused the connection", words)
            return BrokerRefused(
                f"the broker at {endpoint} refused vhost {address.vhost!r} to user {address.user!r}"
                + (f" ({words})" if words else ""),
                hint="correct the vhost in the URL, or at the broker `rabbitmqctl add_vhost` and `set_permissions`",
            )
        case _:
            return BrokerUnreachable(
                f"the server at {endpoint} does not speak AMQP 0-9-1 ({_short_text(error)})",
                retryable=_closed_at_once(error),
                hint="correct host, port and scheme (amqp or amqps) of the broker's URL",
            )


def _closed_at_once(error: Exception) -> bool:
    """Return whether the peer closed before it sent a byte, as a container's port does if no process listens."""
    cause = error.__cause__ or error.__context__
    return isinstance(cause, ConnectionResetError) or (
        isinstance(cause, asyncio.IncompleteReadError) and not cause.partial and cause.expected == 1
    )


def _of_certificate(endpoint: Endpoint, error: BaseException) -> BrokerError | None:
    """Return the broker's refusal of our certificate, or None if the error has another reason.

    With TLS 1.3 the refusal comes after the handshake, wrapped in other errors. The broker closes the connection at
    once, so the TLS alert may be lost; then a connection reset is the only sign.
    """
    seen: BaseException | None = error
    reset = False
    for _ in range(MAX_CAUSES):
        if seen is None:
            break
        if (refusal := refused_certificate(str(endpoint), seen)) is not None:
            return refusal
        reset |= isinstance(seen, ConnectionResetError) or "ConnectionResetError" in str(seen)
        seen = seen.__cause__ or seen.__context__
    return closed_after_handshake(str(endpoint)) if reset else None


def _short_text(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


async def _mark_closed(amqp: aio_pika.Connection) -> None:
    """Mark the aio-pika connection as closed: otherwise it starts a task when it is garbage-collected."""
    with contextlib.suppress(Exception):  # the socket is already aborted: closing may fail in any way
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await guarded(amqp.close())


def _silence_loggers() -> None:
    """Silence the libraries' loggers unless their level was set: we log each event ourselves, once."""
    for name in ("aio_pika", "aiormq"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)


def untrusted(where: str, error: ssl.SSLCertVerificationError) -> BrokerUnreachable:
    """Return the error for a broker certificate that cannot be verified."""
    return BrokerUnreachable(
        f"the certificate of {where} is not trusted: {error.verify_message}", hint=_verification_hint(error)
    )


def _verification_hint(error: ssl.SSLCertVerificationError) -> str:
    """Return the hint for a verification error."""
    if error.verify_code in _UNKNOWN_CA:
        return "name the CA that issued it with cafile= in the broker's URL"
    if error.verify_code in _EXPIRED:
        return "have the broker's operator renew it, or correct this machine's clock"
    if error.verify_code in _OTHER_NAME:
        return "use the host name that is in it, or have the operator put this one in"
    return "have the broker's operator look at it"


def refused_certificate(where: str, error: BaseException) -> BrokerRefused | None:
    """Return the error for a client certificate that the broker refused; None if the error is no such TLS alert."""
    reasons = str(getattr(error, "reason", None) or error).upper().replace(" ", "_")
    reason = next((text for alert, text in _ALERTS.items() if f"ALERT_{alert}" in reasons), None)
    if reason is None:
        return None
    return BrokerRefused(
        f"the broker at {where} refuses our client certificate: {reason}",
        hint="correct certfile and keyfile in the broker's URL, or have the operator issue another certificate",
    )


def closed_after_handshake(where: str) -> BrokerRefused:
    """Return the error for a broker that closed the connection right after the TLS handshake."""
    return BrokerRefused(
        f"the broker at {where} refuses our client certificate, or requires a client certificate:"
        " it closed the connection at once",
        hint="correct certfile and keyfile in the broker's URL, or have the operator issue another certificate",
    )


def tls_error(where: str, error: ssl.SSLError) -> BrokerRefused | BrokerUnreachable:
    """Return the error for a failed TLS handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(where, error)
    return refused_certificate(where, error) or BrokerUnreachable(
        f"no TLS connection with {where}: {error.reason or error}",
        hint="see that the port is the broker's TLS port and that `cafile` in the URL is its CA",
    )
