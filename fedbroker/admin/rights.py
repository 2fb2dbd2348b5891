"""Permissions of silos and coordinators at the broker, as the regular expressions that RabbitMQ expects.

A silo may configure nothing: its queues are made for it (see :mod:`fedbroker.admin.queues`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fedbroker.admin.queues import silo_queues
from fedbroker.transport import topology
from fedbroker.transport.topology import Exchange
from fedbroker.wire.names import is_name

__all__ = ["COORDINATOR", "NOTHING", "SILO", "Rights", "Topic", "User", "coordinator_rights", "silo_rights"]

NOTHING: Final = "^$"
"""Matches no named queue or exchange. RabbitMQ checks the default exchange as ``amq.default``."""

COORDINATOR: Final = "fedbroker-coordinator"
SILO: Final = "fedbroker-silo"
"""Tags of our users at the broker; RabbitMQ attaches no meaning to them."""

_OWN_QUEUES: Final = ("callback", "results", "roster", "reading", "lobby", "dead")
_WORD: Final = r"[a-z0-9_-]+"


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
    coordinator = f"{topology.coordinator_mark(cohort)}-{_WORD}"
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
    """Return the permissions of coordinators, for every cohort of a virtual host but not for silos' own queues."""
    exchanges = "|".join(re.escape(exchange.name) for exchange in topology.EXCHANGES)
    ours = rf"^({exchanges})$|^fedbroker\.({'|'.join(_OWN_QUEUES)})\."
    return Rights(configure=ours, write=ours, read=ours)


def _exactly(names: Iterable[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"
