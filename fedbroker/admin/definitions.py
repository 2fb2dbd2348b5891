"""Definitions in RabbitMQ's import format, for its management API or a file."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from fedbroker.admin.queues import POLICIES, cohort_queues, silo_queues
from fedbroker.admin.rights import COORDINATOR, SILO, Rights, User, coordinator_rights, silo_rights
from fedbroker.transport.topology import EXCHANGES, Queue

__all__ = ["Definitions", "for_coordinator", "for_login", "for_silo", "for_user", "hashed"]

Definitions: TypeAlias = dict[str, list[dict[str, Any]]]
"""Objects by kind (``users``, ``queues``, …). They hold hashes of passwords, no passwords."""

HASHING: Final = "rabbit_password_hashing_sha256"


def for_coordinator(vhost: str, name: str, password: str) -> Definitions:
    """Return a virtual host with fedbroker's exchanges and policies, and a coordinator's user with its permissions."""
    return {
        "vhosts": [{"name": vhost}],
        "users": [_user(name, password, COORDINATOR)],
        **_granted(vhost, name, coordinator_rights()),
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for exchange in EXCHANGES
        ],
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


def for_silo(vhost: str, user: User, password: str | None, *, replicated: bool = False) -> Definitions:
    """Return a silo's user with exactly its permissions, its queues, and those of its cohort.

    Args:
        vhost: the virtual host.
        user: the silo's.
        password: None for a user without one.
        replicated: see :func:`fedbroker.admin.queues.silo_queues`.
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
    known = "" if password is None else hashed(password)
    return {"name": name, "password_hash": known, "hashing_algorithm": HASHING, "tags": tag}


def _granted(vhost: str, user: str, rights: Rights) -> Definitions:
    mine: Mapping[str, str] = {"user": user, "vhost": vhost}
    given = {"configure": rights.configure, "write": rights.write, "read": rights.read}
    topics = [{**mine, "exchange": one.exchange.name, "write": one.write, "read": one.read} for one in rights.topics]
    return {"permissions": [{**mine, **given}], "topic_permissions": topics}


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
