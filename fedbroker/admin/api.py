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
from fedbroker.text import ESCAPES, has_stray_at

__all__ = ["Management", "admin_login"]

Entry: TypeAlias = dict[str, Any]
"""An object as the API represents it."""
Method: TypeAlias = Literal["GET", "PUT", "POST", "DELETE"]

CONNECT: Final = 10.0
ANSWER: Final = 60.0
"""Time limit of a response in seconds; importing definitions makes quorum queues one after another."""
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
        """Return the object at a path, given word by word; None if it does not exist.

        Raises:
            BrokerUnreachable: no HTTP server answers in time, or its certificate is not trusted.
            BrokerRefused: the broker refuses the request.
        """
        found = self._ask("GET", path)
        return found if isinstance(found, dict) else None

    def list(self, *path: str) -> Sequence[Entry]:
        """Return all objects at a path; an empty list if the path does not exist. Raises as :meth:`get` does."""
        found = self._ask("GET", path)
        return [one for one in found if isinstance(one, dict)] if isinstance(found, Sequence) else []

    def put(self, value: Mapping[str, Any], *path: str) -> None:
        """Create or replace the object at a path. Raises as :meth:`get` does."""
        self._ask("PUT", path, value)

    def load(self, definitions: Mapping[str, Any]) -> None:
        """Import definitions: existing objects stay, users' passwords and permissions are replaced."""
        self._ask("POST", ("definitions",), definitions)

    def delete(self, *path: str) -> bool:
        """Delete the object at a path. Return whether it existed. Raises as :meth:`get` does."""
        return self._ask("DELETE", path) is not None

    def _ask(self, method: Method, path: tuple[str, ...], value: Mapping[str, Any] | None = None) -> object:
        where = "/".join(quote(word, safe="") for word in path)
        try:
            answer = self._session.request(
                method,
                f"{self.login.base}/api/{where}",
                data=None if value is None else json.dumps(value),
                headers={"Content-Type": "application/json"},
                timeout=(CONNECT, ANSWER),
                allow_redirects=False,
            )
        except requests.exceptions.SSLError:
            raise BrokerUnreachable(
                f"no TLS connection with the management API at {self.login.base}",
                hint="see that its certificate is valid for this host, and that `?cafile=` names its authority",
            ) from None
        except requests.exceptions.Timeout:
            raise BrokerUnreachable(
                f"the management API at {self.login.base} did not answer in time", hint=_HINT_ADDRESS
            ) from None
        except requests.exceptions.RequestException:  # its text may show the URL, which holds no password, and more
            raise BrokerUnreachable(f"no management API answers at {self.login.base}", hint=_HINT_ADDRESS) from None
        return self._taken(answer, f"{method} /api/{where}")

    def _taken(self, answer: requests.Response, what: str) -> object:
        if answer.status_code == 404:
            return None
        if answer.status_code == 401:
            raise BrokerRefused(
                f"the management API refuses user {self.login.user!r} ({_reason(answer)})",
                hint="correct the login; the user needs the tag administrator (`rabbitmqctl set_user_tags`)",
            )
        if not answer.ok or answer.is_redirect:
            raise BrokerRefused(
                f"the management API refuses {what} with {answer.status_code} ({_reason(answer)})",
                hint="see what it says, and the broker's log",
            )
        try:
            return answer.json() if answer.content else {}
        except ValueError:
            raise BrokerUnreachable(
                f"what answers at {self.login.base} is no management API", hint=_HINT_ADDRESS
            ) from None


def _reason(answer: requests.Response) -> str:
    """Return the API's error message on one line."""
    try:
        said = answer.json()
        text = str(said.get("reason") or said.get("error")) if isinstance(said, dict) else answer.reason
    except ValueError:
        text = answer.reason
    return " ".join(str(text).split())[:200]
