"""Client of RabbitMQ's management API, as far as enrolment needs it.

The login needs the tag ``administrator``. Every request has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import requests

from fedbroker.credentials import from_file
from fedbroker.errors import BrokerRefused, BrokerUnreachable, ConfigError, UsageError
from fedbroker.narrowing import is_dict, is_list
from fedbroker.text import ESCAPES, has_stray_at

__all__ = ["Management", "admin_login"]

Entry: TypeAlias = dict[str, Any]
"""An object as the API represents it."""
Method: TypeAlias = Literal["GET", "PUT", "POST", "DELETE"]

CONNECT_SECONDS: Final = 10.0
"""Seconds that a connection may take: long enough for a slow DNS server, short enough to wait for at a terminal."""
RESPONSE_SECONDS: Final = 60.0
"""Seconds that a response may take: importing definitions makes quorum queues one after another."""
_HINT_ADDRESS: Final = "enable the plugin rabbitmq_management, or correct host and port of the management API's URL"

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
            "--api holds a password, which every user of this machine can read in the list of processes",
            hint=f"put the URL into {_URL}, or into the file that {_FILE} names",
        )
    if environ.get(_URL) and environ.get(_FILE):
        raise ConfigError(f"{_URL} and {_FILE} are both set", hint="unset one of them")
    text = from_file(_FILE, environ) if environ.get(_FILE) else environ.get(_URL, "")
    if not text:
        raise ConfigError(
            "the login for the broker's management API is missing",
            hint=f"put https://admin:password@broker.example:15671 into {_URL}, or into the file that {_FILE} names",
        )
    login = urlsplit(_checked(text, _FILE if environ.get(_FILE) else _URL))
    if not login.username or login.password is None:
        raise ConfigError("the management API's URL has no user and password", hint=_EXAMPLE)
    address = urlsplit(api) if api is not None else login
    port = f":{address.port}" if address.port else ""
    host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
    base = f"{address.scheme}://{host}{port}{address.path.rstrip('/').removesuffix('/api')}"
    return Login(base, unquote(login.username), unquote(login.password), _authorities(address.query))


def _checked(url: str, label: str) -> str:
    """Return the URL if it is valid; else raise an error without the URL, since it may hold a password."""
    if has_stray_at(url):
        raise ConfigError(f"{label} is not a URL: its login contains an unescaped / ? # or @", hint=ESCAPES)
    valid = False
    with contextlib.suppress(ValueError):  # its text may show the password
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    if not valid:
        raise ConfigError(f"{label} is not the URL of a management API", hint=_EXAMPLE)
    return url


def _authorities(query: str) -> str | bool:
    """Return the authorities to trust, as with broker URLs: those in ``?cafile=``, or else the system's."""
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"cafile"}:
        raise ConfigError(f"unknown option {min(unknown)!r} in the management API's URL", hint="the only one is cafile")
    if "cafile" in options:
        if not Path(options["cafile"]).is_file():
            raise ConfigError(f"cafile={options['cafile']} does not exist", hint="correct the path")
        return options["cafile"]
    system = ssl.get_default_verify_paths()
    return system.cafile or system.capath or True


class Management:
    """The management API of one broker; a context manager.

    Args:
        login: the API's address and the administrator's login.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self._session = requests.Session()
        self._session.trust_env = False  # neither another login from .netrc nor a proxy
        self._session.auth = (login.user, login.password)
        self._session.verify = login.verify

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, *path: str) -> Entry | None:
        """Return the object at a path, given as its parts; None if it does not exist.

        Raises:
            BrokerUnreachable: no HTTP server answers in time, or its certificate is not trusted.
            BrokerRefused: the broker refuses the request.
        """
        value = self._request("GET", path)
        return value if is_dict(value) else None

    def list(self, *path: str) -> Sequence[Entry]:
        """Return all objects at a path; an empty list if the path does not exist. Raises as :meth:`get` does."""
        value = self._request("GET", path)
        return [entry for entry in value if is_dict(entry)] if is_list(value) else []

    def put(self, value: Mapping[str, Any], *path: str) -> None:
        """Create or replace the object at a path. Raises as :meth:`get` does."""
        self._request("PUT", path, value)

    def load(self, definitions: Mapping[str, Any]) -> None:
        """Import definitions: existing objects stay, users' passwords and permissions are replaced."""
        self._request("POST", ("definitions",), definitions)

    def delete(self, *path: str) -> bool:
        """Delete the object at a path. Return whether it existed. Raises as :meth:`get` does."""
        return self._request("DELETE", path) is not None

    def _request(self, method: Method, path: tuple[str, ...], value: Mapping[str, Any] | None = None) -> object:
        where = "/".join(quote(part, safe="") for part in path)
        try:
            response = self._session.request(
                method,
                f"{self.login.base}/api/{where}",
                data=None if value is None else json.dumps(value),
                headers={"Content-Type": "application/json"},
                timeout=(CONNECT_SECONDS, RESPONSE_SECONDS),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError:
            raise BrokerUnreachable(
                f"TLS with the management API at {self.login.base} failed",
                hint="check that its certificate is valid for this host, and that `?cafile=` names its authority",
            ) from None
        except requests.exceptions.Timeout:
            raise BrokerUnreachable(
                f"the management API at {self.login.base} did not answer in time", hint=_HINT_ADDRESS
            ) from None
        except requests.exceptions.RequestException:  # its text may show the URL, which holds no password, and more
            raise BrokerUnreachable(f"no management API answers at {self.login.base}", hint=_HINT_ADDRESS) from None
        return self._content(response, f"{method} /api/{where}")

    def _content(self, response: requests.Response, request: str) -> object:
        if response.status_code == 404:
            return None
        if response.status_code == 401:
            raise BrokerRefused(
                f"the management API rejected user {self.login.user!r} ({_reason(response)})",
                hint="correct the login; the user needs the tag administrator (`rabbitmqctl set_user_tags`)",
            )
        if not response.ok or response.is_redirect:
            raise BrokerRefused(
                f"the management API refused {request} with status {response.status_code} ({_reason(response)})",
                hint="see its reason and the broker's log",
            )
        try:
            return response.json() if response.content else {}
        except ValueError:
            raise BrokerUnreachable(
                f"the server at {self.login.base} is not a management API", hint=_HINT_ADDRESS
            ) from None


def _reason(response: requests.Response) -> str:
    """Return the API's error message on one line."""
    try:
        content = response.json()
        text = str(content.get("reason") or content.get("error")) if is_dict(content) else response.reason
    except ValueError:
        text = response.reason
    return " ".join(str(text).split())[:200]
