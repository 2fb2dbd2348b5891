"""Addresses, host names and tokens of a page. Plain code without a web framework."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from fedbroker.credentials import from_file
from fedbroker.errors import ConfigError

__all__ = ["Access", "Address", "check_installed", "token_from"]

MIN_TOKEN: Final = 16
"""Fewest characters of a token: fewer could be guessed."""

_ADDRESS: Final = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")

_LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")


def check_installed() -> None:
    """Check that the packages of the extra ``board`` are installed.

    Raises:
        ConfigError: they are not.
    """
    if missing := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"the page needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="install the extra `board`, as with pip install 'fedbroker[board]'",
        )


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on.

    Attributes:
        host: a name or an IP address, without brackets.
        port: 0 is any free port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in ``HOST:PORT``; an IPv6 address is in brackets.

        Raises:
            ConfigError: the text is not an address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65535:
            raise ConfigError(f"{text!r} is not HOST:PORT", hint="write an address such as 127.0.0.1:8080")
        return cls(match["six"] or match["host"], int(match["port"]))

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect to it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def netloc(self) -> str:
        """The address as part of a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def bind(self) -> socket.socket:
        """Return a socket that listens on it.

        Raises:
            ConfigError: another process listens there, or the host is not this machine's.
        """
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise self._refused(error) from None
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise self._refused(error) from None
        listener.setblocking(False)
        return listener

    def _refused(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"the page cannot be served at {self.netloc}: {error.strerror or error}",
            hint="choose another address, or stop the process that listens there",
        )


@dataclass(frozen=True, slots=True)
class Access:
    """The conditions under which a page may be opened.

    Attributes:
        hosts: the host names of URLs that are answered, without ports; empty: any. A page without a token answers to
            names of this machine only: else a web site whose name an attacker resolves to 127.0.0.1 could read it.
        token: a secret; empty: none is needed.
    """

    hosts: frozenset[str]
    token: str = field(default="", repr=False)

    @classmethod
    def to(cls, address: Address, hosts: Iterable[str] = (), token: str = "") -> Self:  # none  # nosec B107
        """Return the conditions for a page at an address.

        Args:
            address: where it listens.
            hosts: names under which a proxy serves it.
            token: a secret; empty: one is made unless the page is for this machine only.

        Raises:
            ConfigError: the token is too short, or has characters that a header cannot carry.
        """
        names = tuple(name.lower() for name in hosts)
        if token and (len(token) < MIN_TOKEN or not _TOKEN.fullmatch(token)):
            raise ConfigError(
                f"the page's token is not {MIN_TOKEN} or more of A-Z a-z 0-9 . _ ~ + / = -",
                hint="make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(24))'",
            )
        if not address.is_loopback:
            return cls(frozenset(names), token or secrets.token_urlsafe(24))
        if names and not token:
            token = secrets.token_urlsafe(24)
        return cls(frozenset((*_LOCAL, *names, address.netloc.rpartition(":")[0])), token)

    @property
    def cookie(self) -> str:
        """Name of the cookie: one for each token, since all ports of a host share cookies."""
        return f"fedbroker-{self._digest('name')[:8]}"

    @property
    def cookie_value(self) -> str:
        """Value of the cookie, from which the token cannot be found."""
        return self._digest("value")

    def knows_host(self, header: str) -> bool:
        """Return whether the page answers to the value of a ``Host`` header."""
        match = _HOST.fullmatch(header)
        return not self.hosts or (match is not None and match[1].lower() in self.hosts)

    def is_token(self, text: str) -> bool:
        """Return whether the text is the token, in a time that tells nothing about it."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def is_cookie(self, text: str) -> bool:
        """Return whether the text is the cookie's value."""
        return hmac.compare_digest(text.encode(), self.cookie_value.encode())

    def _digest(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), f"fedbroker page {purpose}".encode(), hashlib.sha256).hexdigest()


def token_from(variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the token in an environment variable, or in the file that ``<variable>_FILE`` names; empty if none is set.

    Raises:
        ConfigError: both are set, or the file cannot be read.
    """
    named = f"{variable}_FILE"
    if environ.get(variable) and environ.get(named):
        raise ConfigError(f"{variable} and {named} are both set", hint="unset one of them")
    return from_file(named, environ) if environ.get(named) else environ.get(variable, "")
