"""Client of RabbitMQ's management API, as far as enrolment needs it.

The login needs the tag ``administrator``. Every request has a deadline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self, TypeAlias
from urllib.parse import quote

import requests

from fedbroker.admin.login import Login
from fedbroker.errors import BrokerRefused, BrokerUnreachable

__all__ = ["Management"]

Entry: TypeAlias = dict[str, Any]
"""An object as the API represents it."""
Method: TypeAlias = Literal["GET", "PUT", "POST", "DELETE"]

CONNECT: Final = 10.0
ANSWER: Final = 60.0
"""Time limit of a response in seconds; importing definitions makes quorum queues one after another."""
_HINT_ADDRESS: Final = "enable the plugin rabbitmq_management, or correct host and port of the management API's URL"


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
