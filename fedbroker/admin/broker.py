"""Operations on the broker that enrolment needs: through its management API, or as a file of definitions to import."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from fedbroker.admin.api import Management
from fedbroker.admin.definitions import NOTHING, SILO, Definitions, User, silo_queues
from fedbroker.admin.files import write_secret
from fedbroker.errors import BrokerRefused, ConfigError, TopologyMismatch
from fedbroker.narrowing import is_dict, is_list
from fedbroker.transport.topology import EXCHANGES, Queue

__all__ = ["ByFile", "Enrolled", "LiveBroker", "Target"]

OWN_NAMES: Final = r"^fedbroker\."
"""Matches the names of fedbroker's queues and exchanges."""
RETRY_PAUSES: Final = (0.1, 0.3, 1.0)
"""Seconds before each retry of a request to the API: the broker needs some to notice that a connection has ended."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A silo's user, and the number of its connections now."""

    user: User
    certificate: bool
    connections: int


class Target(Protocol):
    """Protocol of a destination for definitions."""

    def check_new(self, name: str) -> None:
        """Raise ConfigError if a user of that name exists."""

    def check_queues(self, user: User, *, replicated: bool) -> None:
        """Raise TopologyMismatch if a queue of that silo exists with other arguments than enrolment would give it."""

    def load(self, definitions: Definitions) -> None:
        """Pass definitions to the broker."""


class ByFile:
    """Writes definitions to a file, for ``rabbitmqctl import_definitions``.

    Args:
        path: of the file.
        force: replace an existing file.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self._path = path
        self._force = force

    def check_new(self, name: str) -> None:
        """Accept any name: a file has no users to compare with."""

    def check_queues(self, user: User, *, replicated: bool) -> None:
        """Accept any queue, for the same reason."""

    def load(self, definitions: Definitions) -> None:
        """Write definitions to the file.

        Raises:
            ConfigError: the file exists already, or cannot be written.
        """
        write_secret(self._path, json.dumps(definitions, indent=2) + "\n", force=self._force)


class LiveBroker:
    """A broker behind its management API. Every method raises BrokerError if the API does not answer, or refuses.

    Args:
        api: logged in as an administrator.
        vhost: the virtual host of the cohorts.
    """

    def __init__(self, api: Management, vhost: str) -> None:
        self._api = api
        self._vhost = vhost

    def check_new(self, name: str) -> None:
        """Check that no user of that name exists.

        Raises:
            ConfigError: a user has that name.
        """
        if self._api.get("users", name) is not None:
            raise ConfigError(
                f"user {name!r} exists already at the broker",
                hint="use `fedbroker admin rotate` for a new login, or --force to replace user and files",
            )

    def check_ready(self) -> None:
        """Check that the virtual host exists, with our exchanges.

        Raises:
            ConfigError: the virtual host or an exchange does not exist.
        """
        existing = self._api.list("exchanges", self._vhost)
        if missing := {exchange.name for exchange in EXCHANGES} - {entry["name"] for entry in existing}:
            raise ConfigError(
                f"vhost {self._vhost!r} has no exchange {min(missing)!r}", hint="run `fedbroker admin init` first"
            )

    def check_here(self, user: User) -> None:
        """Check that no other virtual host has this user: users belong to the whole broker.

        Raises:
            ConfigError: another virtual host has this user.
        """
        others = {entry["vhost"] for entry in self._api.list("users", str(user), "permissions")} - {self._vhost}
        if others:
            raise ConfigError(
                f"user {str(user)!r} belongs to vhost {min(others)!r}", hint="use another name for the cohort"
            )

    def check_queues(self, user: User, *, replicated: bool) -> None:
        """Check that a silo's queues either do not exist or are as enrolment makes them.

        Raises:
            TopologyMismatch: a silo that was not enrolled made a queue, or the silo was enrolled with another
                ``replicated``.
        """
        expected = silo_queues(user.cohort, user.silo, replicated=replicated)
        alternatives = silo_queues(user.cohort, user.silo, replicated=not replicated)
        for queue, alternative in zip(expected, alternatives, strict=True):
            existing = self._api.get("queues", self._vhost, queue.name)
            if existing is None or _matches(existing, queue):
                continue
            if _matches(existing, alternative):
                raise TopologyMismatch(
                    f"queue {queue.name!r} exists already, {'not ' if replicated else ''}replicated",
                    hint="revoke the silo first (`fedbroker admin revoke`): this deletes its queues and their messages",
                )
            raise TopologyMismatch(
                f"queue {queue.name!r} exists already, made by a silo that was not enrolled",
                hint="stop that silo, and delete the queue at the broker",
            )

    def load(self, definitions: Definitions) -> None:
        """Import definitions at the broker."""
        self._api.load(definitions)

    def permit_deleting(self) -> None:
        """Permit the administrator to delete our queues: the API checks its permissions in the virtual host, too."""
        rights = {"configure": OWN_NAMES, "write": NOTHING, "read": NOTHING}
        if self._api.get("permissions", self._vhost, self._api.login.user) is None:
            self._api.put(rights, "permissions", self._vhost, self._api.login.user)

    def silos(self, cohort: str | None = None) -> list[Enrolled]:
        """Return the enrolled silos, sorted by name."""
        permitted = {entry["user"] for entry in self._api.list("vhosts", self._vhost, "permissions")}
        enrolled: list[Enrolled] = []
        for entry in self._api.list("users"):
            user = User.parse(entry["name"])
            if user is None or SILO not in _tags(entry) or entry["name"] not in permitted:
                continue
            if cohort is None or user.cohort == cohort:
                connections = self._api.list("connections", "username", entry["name"])
                enrolled.append(Enrolled(user, not entry.get("password_hash"), len(connections)))
        return sorted(enrolled, key=lambda silo: str(silo.user))

    def users_of(self, cohort: str, silo: str) -> list[Enrolled]:
        """Return the users of one silo: one, or several after an interrupted rotation.

        Raises:
            ConfigError: the silo is not enrolled.
        """
        users = [enrolled for enrolled in self.silos(cohort) if enrolled.user.silo == silo]
        if not users:
            raise ConfigError(
                f"silo {silo!r} of cohort {cohort!r} is not enrolled in vhost {self._vhost!r}",
                hint="see `fedbroker admin list`, or enroll it (`fedbroker admin enroll`)",
            )
        return users

    def disconnect(self, name: str) -> None:
        """Close a user's connections. Retry, since the API fails if a connection ends by itself at the same time."""
        for pause in RETRY_PAUSES:
            try:
                self._api.delete("connections", "username", name)
                return
            except BrokerRefused:
                time.sleep(pause)
        self._api.delete("connections", "username", name)

    def drop_users(self, names: Iterable[User]) -> None:
        """Delete users; the broker closes their connections."""
        for name in names:
            self._api.delete("users", str(name))

    def drop_queues(self, cohort: str, silo: str) -> None:
        """Delete a silo's queues, with their messages."""
        self.permit_deleting()
        for queue in silo_queues(cohort, silo):
            self._api.delete("queues", self._vhost, queue.name)


def _matches(existing: dict[str, object], queue: Queue) -> bool:
    arguments = existing.get("arguments")
    declared: dict[str, object] = dict(arguments) if is_dict(arguments) else {}
    kind = {"x-queue-type"} - set(queue.arguments)  # RabbitMQ 4 adds it to classic queues
    declared = {name: value for name, value in declared.items() if name not in kind or value != "classic"}
    return bool(existing.get("durable")) and not existing.get("exclusive") and declared == dict(queue.arguments)


def _tags(user: dict[str, object]) -> list[str]:
    """Return a user's tags, which older brokers give as one comma-separated string."""
    tags = user.get("tags")
    return tags.split(",") if isinstance(tags, str) else list(map(str, tags)) if is_list(tags) else []
