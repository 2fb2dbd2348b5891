"""Broker URLs: checked before anything is tried, and never shown with their password.

Imports the errors only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from fedbroker.errors import ConfigError

__all__ = ["Address", "parse", "redact"]

HEARTBEAT: Final = 15
"""Seconds, of the AMQP connection, where the URL says nothing else."""

_EXAMPLE: Final = "write it like amqps://user:password@broker.example/vhost"
_FILES: Final = ("cafile", "capath", "certfile", "keyfile")
_OPTIONS: Final = ("auth", "cadata", *_FILES, "heartbeat", "no_verify_ssl")
_MECHANISMS: Final = ("PLAIN", "EXTERNAL")


@dataclass(frozen=True, slots=True)
class Address:
    """A broker's address that was checked.

    Attributes:
        secret: the URL to connect to, with the password: never show it.
        shown: the same without the password and the options.
        host: name or IP address.
        port: TCP port.
        vhost: RabbitMQ's virtual host.
        user: who logs in.
        tls: whether the connection is encrypted.
    """

    secret: str = field(repr=False)
    shown: str
    host: str
    port: int
    vhost: str
    user: str
    tls: bool


def redact(url: str) -> str:
    """The URL without its password, for logs and errors; works for malformed ones too."""
    return re.sub(r"//.*@", "//***@", url, flags=re.DOTALL).split("?", 1)[0]


def parse(url: str) -> Address:
    """Check a broker's URL.

    Raises:
        ConfigError: scheme, host, port, option or a file that an option names is wrong.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{redact(url)!r} is not a broker's URL", hint=_EXAMPLE) from error
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname or parts.fragment or port == 0:
        raise ConfigError(f"{redact(url)!r} is not a broker's URL", hint=_EXAMPLE)
    tls = parts.scheme == "amqps"
    options = _options(parts, tls)
    port = port or (5671 if tls else 5672)
    vhost = unquote(parts.path[1:]) or "/"
    user = unquote(parts.username or "guest")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(
        secret=parts._replace(query=urlencode(options), path=parts.path or "/").geturl(),
        shown=f"{parts.scheme}://{parts.username + '@' if parts.username else ''}{host}:{port}{parts.path or '/'}",
        host=parts.hostname,
        port=port,
        vhost=vhost,
        user=user,
        tls=tls,
    )


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
    for name in _FILES:
        if name in options and not tls:
            raise ConfigError(f"{name} in the broker's URL needs TLS", hint="write amqps:// instead of amqp://")
        if name in options and not Path(options[name]).exists():
            raise ConfigError(f"{name}={options[name]} in the broker's URL does not exist", hint="correct the path")
    return options
