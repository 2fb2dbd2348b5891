"""Broker URLs: checked before the first connection attempt, and never shown with their password."""

from __future__ import annotations

import contextlib
import os
import random
import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from fedbroker.credentials import URL_FILES
from fedbroker.errors import ConfigError
from fedbroker.text import ESCAPES, has_stray_at
from fedbroker.transport.amqp.proxy import Proxy, parse_proxy, proxy_from_environment

__all__ = ["Address", "Endpoint", "is_loopback", "parse", "with_proxy"]

HEARTBEAT: Final = 15
"""Seconds between AMQP heartbeats, unless the URL sets another value: a cut cable is noticed within half a minute."""

_EXAMPLE: Final = "write it like amqps://user:password@broker.example/vhost"
_PARTS: Final = re.compile(
    r"(?P<before>[a-z]+://(?:[^/?#]*@)?)(?P<hosts>[^/?#@]+)(?P<after>.*)", flags=re.DOTALL | re.IGNORECASE
)
_MISREAD: Final = re.compile(r"[\x00-\x1f\x7f\\]")
"""Characters that urllib drops, or that aio-pika's parser refuses with an error that contains the URL."""
_PROXY: Final = "proxy"
_OPTIONS: Final = ("auth", "cadata", *URL_FILES, "heartbeat", "no_verify_ssl", _PROXY)
_MECHANISMS: Final = ("PLAIN", "EXTERNAL")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of the hosts in a broker's URL.

    Attributes:
        secret: the URL to connect to it, with the password: never show it.
        shown: the URL without the password and the options.
        host: name or IP address.
        port: TCP port.
        proxy: the HTTP proxy through which to connect; None for a direct connection.
    """

    secret: str = field(repr=False)
    shown: str
    host: str
    port: int
    proxy: Proxy | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's checked address: one host, or several nodes of one cluster.

    Attributes:
        endpoints: the hosts, each once, in the URL's order.
        shown: the URL without the password and the options.
        vhost: RabbitMQ's virtual host.
        user: the user name to log in with.
        tls: whether the connection is encrypted.
        heartbeat: seconds between AMQP heartbeats.
    """

    endpoints: tuple[Endpoint, ...]
    shown: str
    vhost: str
    user: str
    tls: bool
    heartbeat: int = HEARTBEAT
    _order: list[Endpoint] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", random.sample(self.endpoints, k=len(self.endpoints)))

    def __str__(self) -> str:
        return ", ".join(map(str, self.endpoints))

    @property
    def secret(self) -> str:
        """The URL of the first host, with the password: never show it."""
        return self.endpoints[0].secret

    @property
    def host(self) -> str:
        """The first host."""
        return self.endpoints[0].host

    @property
    def port(self) -> int:
        """The first host's port."""
        return self.endpoints[0].port

    def next_order(self) -> tuple[Endpoint, ...]:
        """Return all hosts, in the order in which to try them this time.

        The order is shuffled once, so that clients with the same URL spread over the cluster. Each call starts one
        host further, so that a client that lost a host does not try it first.
        """
        order = tuple(self._order)
        self._order.append(self._order.pop(0))
        return order


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, judged by its name only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def with_proxy(url: str, proxy: str) -> str:
    """Return the URL with the option ``proxy``, which replaces the environment's proxy."""
    before, _, query = url.partition("?")
    options = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != _PROXY]
    return f"{before}?{urlencode([*options, (_PROXY, proxy)], safe='/')}"


def parse(url: str) -> Address:
    """Check a broker's URL, which may name several hosts: ``amqps://user:password@a.example,b.example:5673/vhost``.

    The option ``proxy`` names an HTTP proxy, or is ``none``. Without it, ``HTTPS_PROXY`` and ``NO_PROXY`` in the
    environment decide for ``amqps``.

    Raises:
        ConfigError: the scheme, host, port, an option, a file named by an option, or the proxy's URL is wrong.
    """
    url = url.strip()
    if has_stray_at(url) or _MISREAD.search(url):
        raise _bad("a / ? # @ \\ or an invisible character stands unescaped in it", hint=ESCAPES)
    found = _PARTS.fullmatch(url)
    if found is None:
        raise _bad("scheme or host is missing")
    before, hosts, after = found["before"], found["hosts"].split(","), found["after"]
    each = list(dict.fromkeys(_split(f"{before}{host}{after}") for host in hosts))
    parts = each[0]
    tls = parts.scheme == "amqps"
    options = _options(parts, tls)
    proxy = options.pop(_PROXY, None)
    endpoints = tuple(_endpoint(host, urlencode(options), tls, proxy) for host in each)
    endpoints = tuple({str(endpoint): endpoint for endpoint in endpoints}.values())
    return Address(
        endpoints=endpoints,
        shown=f"{_shown_login(parts)}{','.join(map(str, endpoints))}{parts.path or '/'}",
        vhost=unquote(parts.path[1:]) or "/",
        user=unquote(parts.username or "guest"),
        tls=tls,
        heartbeat=int(options["heartbeat"]),
    )


def _split(host: str) -> SplitResult:
    """Split a URL with one host into its parts."""
    parts = None
    with contextlib.suppress(ValueError):  # its text may contain the password: keep it out of our error's context
        split = urlsplit(host)
        parts = split if split.port != 0 else None
    if parts is None:
        raise _bad("a host or a port in it is malformed")
    if parts.scheme not in ("amqp", "amqps"):
        raise _bad("its scheme is neither amqp nor amqps")
    if not parts.hostname or parts.fragment:
        raise _bad("it has a fragment (#)" if parts.hostname else "it names no host")
    return parts


def _endpoint(parts: SplitResult, query: str, tls: bool, proxy: str | None) -> Endpoint:
    host, port = parts.hostname or "", parts.port or (5671 if tls else 5672)
    secret = parts._replace(query=query, path=parts.path or "/").geturl()
    endpoint = Endpoint(secret, "", host, port, _proxy_of(host, port, tls, proxy))
    return replace(endpoint, shown=f"{_shown_login(parts)}{endpoint}{parts.path or '/'}")


def _proxy_of(host: str, port: int, tls: bool, setting: str | None) -> Proxy | None:
    if setting is not None:
        return parse_proxy(setting, "proxy= in the broker's URL")
    # Other programs exempt the machine itself, too.
    return proxy_from_environment(host, port) if tls and not is_loopback(host) else None


def _shown_login(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.username + '@' if parts.username else ''}"


def _bad(why: str, hint: str = _EXAMPLE) -> ConfigError:
    """Return an error that shows no part of the URL: in a malformed URL, any part may be the password."""
    return ConfigError(f"this is not a broker's URL: {why}", hint=hint)


def _options(parts: SplitResult, tls: bool) -> dict[str, str]:
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = {"heartbeat": str(HEARTBEAT)} | dict(given)
    for name in options:
        if name not in _OPTIONS:
            raise ConfigError(f"unknown option {name!r} in the broker's URL", hint=f"known are {', '.join(_OPTIONS)}")
    if not re.fullmatch(r"[1-9][0-9]{0,3}", options["heartbeat"]):
        raise ConfigError(
            f"heartbeat={options['heartbeat']} in the broker's URL is not a number of seconds from 1 to 9999",
            hint="leave it out; without heartbeats a cut connection would never be noticed",
        )
    if options.get("auth", "PLAIN").upper() not in _MECHANISMS:
        raise ConfigError(
            f"auth={options['auth']} in the broker's URL is not known", hint=f"known are {', '.join(_MECHANISMS)}"
        )
    for name in URL_FILES:
        if name in options and not tls:
            raise ConfigError(f"{name} in the broker's URL needs TLS", hint="write amqps:// instead of amqp://")
        if name in options and not os.path.exists(options[name]):  # also False for a string that cannot be a path
            raise ConfigError(f"{name}={options[name]} in the broker's URL does not exist", hint="correct the path")
    return options
