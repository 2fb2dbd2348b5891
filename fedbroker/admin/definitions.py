"""Definitions in RabbitMQ's import format, for its management API or a file."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from fedbroker.transport import topology
from fedbroker.transport.topology import EXCHANGES, MINUTES, SECONDS, Exchange, Queue
from fedbroker.wire.messages import is_name

__all__ = [
    "NOTHING",
    "SILO",
    "Definitions",
    "User",
    "board_rights",
    "coordinator_rights",
    "for_board",
    "for_coordinator",
    "for_login",
    "for_silo",
    "for_user",
    "hashed",
    "silo_rights",
]

Definitions: TypeAlias = dict[str, list[dict[str, Any]]]
"""Objects by kind (``users``, ``queues``, …). They hold hashes of passwords, no passwords."""

HASHING: Final = "rabbit_password_hashing_sha256"

NOTHING: Final = "^$"
"""Matches no named queue or exchange. RabbitMQ checks the default exchange as ``amq.default``."""

COORDINATOR: Final = "fedbroker-coordinator"
SILO: Final = "fedbroker-silo"
BOARD: Final = "fedbroker-board"
"""Tags of our users at the broker; RabbitMQ attaches no meaning to them."""

_OWN_QUEUES: Final = ("callback", "results", "roster", "reading", "lobby", "dead")
_WORD: Final = r"[a-z0-9_-]+"

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings for all queues with matching names; unlike a queue's arguments they can be changed later."""

    name: str
    pattern: str
    definition: Mapping[str, int | str]


POLICIES: Final = (
    Policy(
        "fedbroker-mailbox",
        r"^fedbroker\.mailbox\.",
        {"message-ttl": 60 * SECONDS, "max-length": 10_000},  # older notices are useless to a silo that returns
    ),
    Policy(
        "fedbroker-blobs",
        r"^fedbroker\.blobs\.",
        {"message-ttl": 10 * MINUTES, "max-length-bytes": 2048 * MIB},  # lost blobs are requested again
    ),
)


def silo_queues(cohort: str, silo: str, *, replicated: bool = False) -> tuple[Queue, ...]:
    """Return one silo's queues: durable, and without expiry.

    Args:
        cohort: its cohort.
        silo: its name.
        replicated: replicate all of them on several nodes of a cluster, so that the silo survives the loss of any node;
            else only its work queue is replicated.
    """
    blobs, mailbox = topology.blobs_queue(cohort, silo), topology.mailbox(cohort, silo)
    if replicated:
        blobs, mailbox = _replicated(blobs), _replicated(mailbox)
    return tuple(map(_lasting, (topology.work_queue(cohort, silo), blobs, mailbox)))


def cohort_queues(cohort: str) -> tuple[Queue, ...]:
    """Return the queues that all silos of a cohort share; a coordinator makes the same if they do not exist."""
    return topology.lobby_queue(cohort), topology.archive(cohort)


def _replicated(queue: Queue) -> Queue:
    return replace(queue, arguments={**queue.arguments, "x-queue-type": "quorum"})


def _lasting(queue: Queue) -> Queue:
    arguments = {name: value for name, value in queue.arguments.items() if name != "x-expires"}
    return replace(queue, arguments=arguments, exclusive=False)


@dataclass(frozen=True, slots=True)
class Topic:
    """The routing keys with which a user may publish to an exchange, and by which it may bind queues."""

    exchange: Exchange
    write: str
    read: str = NOTHING


@dataclass(frozen=True, slots=True)
class Rights:
    """A user's permissions in one virtual host."""

    configure: str
    write: str
    read: str
    topics: tuple[Topic, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A silo's user at the broker: ``cohort.silo``, or ``cohort.silo.serial`` if it logs in with a certificate.

    Names hold no dot, so silos of one name in two cohorts have two users, and neither can be a coordinator's. A user
    can be revoked, a certificate cannot: so each certificate has a user of its own.
    """

    cohort: str
    silo: str
    serial: str = ""

    def __str__(self) -> str:
        return ".".join(filter(None, (self.cohort, self.silo, self.serial)))

    @classmethod
    def of_certificate(cls, cohort: str, silo: str) -> User:
        """Return a new user for a certificate, with a random serial."""
        return cls(cohort, silo, secrets.token_hex(4))

    @classmethod
    def parse(cls, name: str) -> User | None:
        """Return the user of that name; None if it is not a silo's."""
        words = name.split(".")
        return cls(*words) if len(words) in (2, 3) and all(map(is_name, words)) else None


def silo_rights(cohort: str, silo: str) -> Rights:
    """Return exactly the permissions that an enrolled silo needs.

    It reads its own queues. It writes to the lobby, to its own cohort's coordinators (replies and results), and to its
    own work queue (to put long work back), each with routing keys that name it.
    """
    own = re.escape(topology.silo_key(cohort, silo))
    name = re.escape(silo)
    coordinator = f"{topology.coordinator_prefix(cohort)}-{_WORD}"
    writes = (topology.LOBBY, topology.REPLY, topology.RESULTS, topology.WORK)
    return Rights(
        configure=NOTHING,
        write=_exactly(exchange.name for exchange in writes),
        read=_exactly(queue.name for queue in silo_queues(cohort, silo)),
        topics=(
            Topic(topology.LOBBY, f"^{own}$"),
            Topic(topology.REPLY, rf"^{coordinator}\.{_WORD}\.[0-9]+\.{name}$"),
            Topic(topology.RESULTS, rf"^{coordinator}\.{name}$"),
            Topic(topology.WORK, rf"^{own}\.{_WORD}$"),
        ),
    )


def coordinator_rights() -> Rights:
    """Return the permissions of coordinators, for every cohort of a virtual host but not for silos' own queues.

    Coordinators publish events, with a cohort and a coordinator's id as routing key, and read none.
    """
    exchanges = "|".join(re.escape(exchange.name) for exchange in topology.EXCHANGES)
    queues = rf"^fedbroker\.({'|'.join(_OWN_QUEUES)})\."
    read = rf"^({exchanges})$|{queues}"
    write = rf"^({exchanges}|{re.escape(topology.EVENTS.name)})$|{queues}"
    events = Topic(topology.EVENTS, rf"^{_WORD}\.{_WORD}$")
    return Rights(configure=write, write=write, read=read, topics=(events,))


def board_rights(cohorts: Iterable[str] = ()) -> Rights:
    """Return the permissions of a board: it reads announcements and events, on queues of its own, and writes nothing.

    Args:
        cohorts: the cohorts that it may see; empty for all of the virtual host.
    """
    own_queues = r"fedbroker\.board\.[0-9a-f]+\.(silos|events)"
    exchanges = "|".join(re.escape(exchange.name) for exchange in (topology.LOBBY, topology.EVENTS))
    names = "|".join(map(re.escape, cohorts))
    seen = rf"^({names})\.\*$" if names else ".*"
    return Rights(
        configure=f"^{own_queues}$",
        write=f"^{own_queues}$",
        read=f"^({own_queues}|{exchanges})$",
        topics=(Topic(topology.LOBBY, NOTHING, seen), Topic(topology.EVENTS, NOTHING, seen)),
    )


def _exactly(names: Iterable[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"


def for_coordinator(vhost: str, name: str, password: str) -> Definitions:
    """Return a virtual host with fedbroker's exchanges and policies, and a coordinator's user with its permissions."""
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(name, password, COORDINATOR)],
        **_granted(vhost, name, coordinator_rights()),
        "exchanges": [_exchange(vhost, exchange) for exchange in (*EXCHANGES, topology.EVENTS)],
        "policies": [
            {
                "vhost": vhost,
                "name": policy.name,
                "pattern": policy.pattern,
                "apply-to": "queues",
                "definition": dict(policy.definition),
                "priority": 0,
            }
            for policy in POLICIES
        ],
    }


def for_board(vhost: str, name: str, password: str, cohorts: Iterable[str] = ()) -> Definitions:
    """Return a board's user with exactly its permissions, and the exchange of events."""
    return {
        "users": [_user(name, password, BOARD)],
        **_granted(vhost, name, board_rights(cohorts)),
        "exchanges": [_exchange(vhost, topology.EVENTS)],
    }


def for_silo(vhost: str, user: User, password: str | None, *, replicated: bool = False) -> Definitions:
    """Return a silo's user with exactly its permissions, its queues, and those of its cohort.

    Args:
        vhost: the virtual host.
        user: the silo's.
        password: None for a user without one.
        replicated: see :func:`fedbroker.admin.definitions.silo_queues`.
    """
    queues = (*silo_queues(user.cohort, user.silo, replicated=replicated), *cohort_queues(user.cohort))
    return {
        **for_user(vhost, user, password),
        "queues": [_queue(vhost, queue) for queue in queues],
        "bindings": _bindings(vhost, queues),
    }


def for_user(vhost: str, user: User, password: str | None) -> Definitions:
    """Return a silo's user with its permissions, without queues: they exist already."""
    return {
        **for_login(user, password),
        **_granted(vhost, str(user), silo_rights(user.cohort, user.silo)),
    }


def for_login(user: User, password: str | None) -> Definitions:
    """Return a silo's user alone, with a new password."""
    return {"users": [_user(str(user), password, SILO)]}


def hashed(password: str) -> str:
    """Hash a password as RabbitMQ stores it: four random bytes, and SHA-256 of these and the password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _user(name: str, password: str | None, tag: str) -> dict[str, Any]:
    """Return a user's definition. Without a password its hash is empty, which allows no login by password."""
    password_hash = "" if password is None else hashed(password)
    return {"name": name, "password_hash": password_hash, "hashing_algorithm": HASHING, "tags": tag}


def _granted(vhost: str, user: str, rights: Rights) -> Definitions:
    scope: Mapping[str, str] = {"user": user, "vhost": vhost}
    rights_by_kind = {"configure": rights.configure, "write": rights.write, "read": rights.read}
    topics = [
        {**scope, "exchange": topic.exchange.name, "write": topic.write, "read": topic.read} for topic in rights.topics
    ]
    return {"permissions": [{**scope, **rights_by_kind}], "topic_permissions": topics}


def _exchange(vhost: str, exchange: Exchange) -> dict[str, Any]:
    return {
        "name": exchange.name,
        "vhost": vhost,
        "type": exchange.kind,
        "durable": True,
        "auto_delete": False,
        "internal": False,
        "arguments": {},
    }


def _queue(vhost: str, queue: Queue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "vhost": vhost,
        "durable": True,
        "auto_delete": False,
        "arguments": dict(queue.arguments),
    }


def _bindings(vhost: str, queues: Iterable[Queue]) -> list[dict[str, Any]]:
    return [
        {
            "source": binding.exchange.name,
            "vhost": vhost,
            "destination": queue.name,
            "destination_type": "queue",
            "routing_key": binding.key,
            "arguments": {},
        }
        for queue in queues
        for binding in queue.bindings
    ]
