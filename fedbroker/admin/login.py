"""Address and login of the management API; passwords are never taken from the command line."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from fedbroker.credentials import from_file
from fedbroker.errors import ConfigError, UsageError
from fedbroker.redact import ESCAPES, has_stray_at

__all__ = ["Login", "admin_login"]

_URL: Final = "FEDBROKER_ADMIN_URL"
_FILE: Final = "FEDBROKER_ADMIN_URL_FILE"
_EXAMPLE: Final = "write it like https://admin:password@broker.example:15671"


@dataclass(frozen=True, slots=True)
class Login:
    """An administrator's access to the management API.

    Attributes:
        base: ``https://host:port``, without a login.
        user: the administrator's name.
        password: a secret.
        verify: the authorities to verify the API's certificate with: a file, a directory, or True if the system has
            neither.
    """

    base: str
    user: str
    password: str = field(repr=False)
    verify: str | bool = True

    @property
    def host(self) -> str:
        """Host of the API, which is also the broker's by default."""
        return urlsplit(self.base).hostname or ""


def admin_login(api: str | None, environ: Mapping[str, str] = os.environ) -> Login:
    """Return the login in the environment, at the address in the environment or at another one.

    Args:
        api: an address to use instead of the environment's; holds no password.
        environ: has ``FEDBROKER_ADMIN_URL``, or ``FEDBROKER_ADMIN_URL_FILE``, which names a file that holds it.

    Raises:
        UsageError: the argument holds a password.
        ConfigError: the environment has no login, or a URL is malformed.
    """
    if api is not None and urlsplit(_checked(api, "--api")).password is not None:
        raise UsageError(
            "--api holds a password, which everybody on this machine can read in the list of processes",
            hint=f"put the URL into {_URL}, or into a file that {_FILE} names",
        )
    if environ.get(_URL) and environ.get(_FILE):
        raise ConfigError(f"{_URL} and {_FILE} are both set", hint="unset one of them")
    text = from_file(_FILE, environ) if environ.get(_FILE) else environ.get(_URL, "")
    if not text:
        raise ConfigError(
            "nothing says how to log in at the broker's management API",
            hint=f"put https://admin:password@broker.example:15671 into {_URL}, or into a file that {_FILE} names",
        )
    login = urlsplit(_checked(text, _FILE if environ.get(_FILE) else _URL))
    if not login.username or login.password is None:
        raise ConfigError("the management API's URL holds no user and password", hint=_EXAMPLE)
    there = urlsplit(api) if api is not None else login
    port = f":{there.port}" if there.port else ""
    host = f"[{there.hostname}]" if ":" in (there.hostname or "") else there.hostname
    base = f"{there.scheme}://{host}{port}{there.path.rstrip('/').removesuffix('/api')}"
    return Login(base, unquote(login.username), unquote(login.password), _authorities(there.query))


def _checked(url: str, label: str) -> str:
    """Return the URL if it is valid; else raise an error without the URL, since it may hold a password."""
    if has_stray_at(url):
        raise ConfigError(f"{label} is not a URL: a / ? # or @ stands unescaped in its login", hint=ESCAPES)
    fine = False
    with contextlib.suppress(ValueError):  # its text may show the password
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    if not fine:
        raise ConfigError(f"{label} is not the URL of a management API", hint=_EXAMPLE)
    return url


def _authorities(query: str) -> str | bool:
    """Return the authorities to trust, as with broker URLs: those in ``?cafile=``, or else the system's."""
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"cafile"}:
        raise ConfigError(f"unknown option {min(unknown)!r} in the management API's URL", hint="known is cafile")
    if "cafile" in options:
        if not Path(options["cafile"]).is_file():
            raise ConfigError(f"cafile={options['cafile']} does not exist", hint="correct the path")
        return options["cafile"]
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True
