"""Connections through an HTTP proxy: CONNECT (RFC 9110, 9.3.6) asks it for a tunnel to the broker.

TLS runs inside the tunnel, from here to the broker: the proxy sees the broker's host and port and no message.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import h11

from fedbroker.errors import BrokerUnreachable, ConfigError
from fedbroker.text import printable

__all__ = ["NO_PROXY", "Proxy", "open_tunnel", "parse_proxy", "proxy_from_environment"]

NO_PROXY: Final = "none"
"""The value of a setting that connects directly and ignores the environment."""

_READ: Final = 4096
"""Bytes read at a time: the head of a proxy's response is smaller."""
_LONGEST_REASON: Final = 100
"""Characters of a proxy's own reason that an error quotes."""
_DEFAULT_PORT: Final = 80  # of the scheme http, as in other programs that read HTTPS_PROXY
_EXAMPLE: Final = "write it like http://proxy.example:3128 or http://user:password@proxy.example:3128"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: name or IP address.
        port: TCP port.
        user: the user name to authenticate with, or None.
        password: the password of that user.
    """

    host: str
    port: int
    user: str | None = None
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return _authority(self.host, self.port)


def parse_proxy(url: str, source: str) -> Proxy | None:
    """Read a proxy's URL; None for ``none``.

    Args:
        url: ``http://host:port``, with user and password if the proxy asks for them; the scheme may be left out.
        source: the name of the setting, for an error.

    Raises:
        ConfigError: the URL is malformed. The error shows no part of it, since any part may be the password.
    """
    url = url.strip()
    if url == NO_PROXY:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host, parts = None, None, None
    if parts is None or not host or parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
        raise ConfigError(f"{source} is not the URL of a proxy", hint=_EXAMPLE)
    if parts.scheme != "http":
        raise ConfigError(f"{source} has a scheme other than http", hint=f"{_EXAMPLE}; TLS runs inside the tunnel")
    user = None if parts.username is None else unquote(parts.username)
    return Proxy(host, port or _DEFAULT_PORT, user, unquote(parts.password or ""))


def proxy_from_environment(host: str, port: int) -> Proxy | None:
    """Return the proxy that ``HTTPS_PROXY`` names, unless ``NO_PROXY`` exempts the host; None without one.

    Raises:
        ConfigError: the variable does not hold the URL of a proxy.
    """
    url = getproxies_environment().get("https")
    if not url or proxy_bypass(_authority(host, port)):
        return None
    return parse_proxy(url, "HTTPS_PROXY in the environment")


async def open_tunnel(proxy: Proxy, host: str, port: int) -> socket.socket:
    """Return a connected socket whose other end is ``host``; the caller sets the timeout and closes the socket.

    Raises:
        BrokerUnreachable: the proxy cannot be reached, refuses the tunnel, or does not speak HTTP.
    """
    opened = await _connected(proxy)
    try:
        await _connect_through(opened, proxy, _authority(host, port))
    except BaseException:
        opened.close()
        raise
    return opened


async def _connected(proxy: Proxy) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        raise BrokerUnreachable(
            f"the proxy's host name {proxy.host!r} cannot be resolved", retryable=True, hint="correct the proxy's URL"
        ) from None
    failed = ""
    for family, kind, protocol, _, address in infos:
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        try:
            await loop.sock_connect(opened, address)
        except OSError as error:
            opened.close()
            failed = error.strerror or str(error)
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise BrokerUnreachable(
        f"the proxy {proxy} cannot be reached: {failed}", retryable=True, hint="start the proxy, or correct its URL"
    )


async def _connect_through(opened: socket.socket, proxy: Proxy, authority: str) -> None:
    """Ask for the tunnel and wait for the proxy's consent."""
    loop = asyncio.get_running_loop()
    connection = h11.Connection(h11.CLIENT)
    request = connection.send(h11.Request(method="CONNECT", target=authority, headers=_headers(proxy, authority)))
    end = connection.send(h11.EndOfMessage())
    assert request is not None
    assert end is not None
    try:
        await loop.sock_sendall(opened, request + end)
        response: object = h11.NEED_DATA
        while not isinstance(response, h11.Response):
            if response is h11.NEED_DATA:
                received = await loop.sock_recv(opened, _READ)
                if not received:
                    raise ConnectionResetError("it closed the connection")
                connection.receive_data(received)
            response = connection.next_event()
    except h11.RemoteProtocolError:
        raise BrokerUnreachable(
            f"the server at {proxy} does not answer as an HTTP proxy", hint="correct the proxy's URL"
        ) from None
    except OSError as error:
        raise BrokerUnreachable(
            f"the proxy {proxy} broke off before it opened a tunnel to {authority}: {error.strerror or error}",
            retryable=True,
            hint="ask the proxy's operator for its log",
        ) from None
    if not 200 <= response.status_code < 300:
        raise _refusal(proxy, authority, response)
    if connection.trailing_data[0]:
        raise BrokerUnreachable(f"the proxy {proxy} sent data of its own into the tunnel", hint="use another proxy")


def _headers(proxy: Proxy, authority: str) -> list[tuple[str, str]]:
    headers = [("Host", authority), ("User-Agent", "fedbroker")]
    if proxy.user is not None:
        login = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        headers.append(("Proxy-Authorization", f"Basic {login}"))
    return headers


def _refusal(proxy: Proxy, authority: str, response: h11.Response) -> BrokerUnreachable:
    """Return the error for a response other than 2xx."""
    reason = printable(response.reason.decode("latin1"), _LONGEST_REASON)
    status = f"{response.status_code} {reason}".strip()
    if response.status_code in (401, 407):  # tinyproxy answers a wrong login with 401
        asks = "requires a user and a password" if proxy.user is None else f"refused the login of user {proxy.user!r}"
        return BrokerUnreachable(f"the proxy {proxy} {asks} ({status})", hint=f"correct its URL: {_EXAMPLE}")
    if response.status_code >= 500:  # the proxy looked for the broker itself
        return BrokerUnreachable(
            f"the proxy {proxy} cannot reach the broker at {authority} ({status})",
            retryable=True,
            hint="start the broker, or correct host and port in its URL; the proxy resolves the host's name",
        )
    return BrokerUnreachable(
        f"the proxy {proxy} refuses a tunnel to {authority} ({status})",
        hint="ask the proxy's operator to allow CONNECT to it, or the broker's operator to listen on port 443",
    )


def _authority(host: str, port: int) -> str:
    """Return host and port as a URL has them; a host name with non-ASCII letters in its DNS form."""
    if ":" in host:
        return f"[{host}]:{port}"
    return f"{host if host.isascii() else host.encode('idna').decode()}:{port}"
