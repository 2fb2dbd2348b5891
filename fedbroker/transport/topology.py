"""Every exchange, queue, binding and routing key of fedbroker, and nothing else.

Imports wire's names only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "BLOBS",
    "DEAD",
    "EXCHANGES",
    "LOBBY",
    "MAIL",
    "REPLY",
    "RESULTS",
    "WORK",
    "Binding",
    "Exchange",
    "Queue",
    "archive",
    "blobs_key",
    "blobs_queue",
    "callback_queue",
    "coordinator_key",
    "coordinator_mark",
    "coordinator_signer",
    "lobby_queue",
    "mailbox",
    "reading_lock",
    "reply_key",
    "results_key",
    "results_queue",
    "roster_queue",
    "silo_key",
    "work_key",
    "work_queue",
]

SECONDS: Final = 1000  # RabbitMQ counts in milliseconds
MINUTES: Final = 60 * SECONDS
HOURS: Final = 60 * MINUTES
DAYS: Final = 24 * HOURS

LONGEST_HEARTBEAT: Final = 60.0
"""Seconds: how long an announcement lies in the lobby at most; each silo's own heartbeat is shorter, or this."""

MOST_WAITING: Final = 20_000
"""Announcements in a cohort's lobby: twice as many as a coordinator takes silos."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["topic", "direct"]


@dataclass(frozen=True, slots=True)
class Binding:
    """What of an exchange's messages goes to a queue."""

    exchange: Exchange
    key: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: durable, unless it is exclusive to one connection and goes with it."""

    name: str
    bindings: tuple[Binding, ...]
    arguments: Mapping[str, str | int] = field(default_factory=dict)
    exclusive: bool = False


WORK: Final = Exchange("fedbroker.work", "topic")
REPLY: Final = Exchange("fedbroker.reply", "topic")
BLOBS: Final = Exchange("fedbroker.blobs", "direct")
RESULTS: Final = Exchange("fedbroker.results", "topic")
LOBBY: Final = Exchange("fedbroker.lobby", "topic")
MAIL: Final = Exchange("fedbroker.mail", "direct")
DEAD: Final = Exchange("fedbroker.dead", "topic")
EXCHANGES: Final = (WORK, REPLY, BLOBS, RESULTS, LOBBY, MAIL, DEAD)


def work_queue(cohort: str, silo: str) -> Queue:
    """A silo's work items, until they are answered: replicated, redelivered three times, then dead-lettered."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 3,
        "x-single-active-consumer": True,  # of two processes of one silo, one works
        "x-dead-letter-exchange": DEAD.name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # at-least-once dead-lettering needs it
        "x-expires": 1 * HOURS,
        "x-consumer-timeout": 1 * DAYS,  # local training may take longer than the broker's 30 minutes; from 3.12
    }
    return Queue(f"fedbroker.work.{cohort}.{silo}", (Binding(WORK, f"{cohort}.{silo}.*"),), arguments)


def blobs_queue(cohort: str, silo: str) -> Queue:
    """Chunks on their way to a silo."""
    bindings = (Binding(BLOBS, cohort), Binding(BLOBS, f"{cohort}.{silo}"))
    return Queue(f"fedbroker.blobs.{cohort}.{silo}", bindings, {}, exclusive=True)


def mailbox(cohort: str, silo: str) -> Queue:
    """What is said to one silo; exclusive, so that it is the lock on the silo's name too."""
    return Queue(f"fedbroker.mailbox.{cohort}.{silo}", (Binding(MAIL, silo_key(cohort, silo)),), {}, exclusive=True)


def lobby_queue(cohort: str) -> Queue:
    """A copy of each silo's announcement; the broker sends it back to the silo when its time is up or it was read.

    Or when there are too many of them: the oldest go.
    """
    arguments: dict[str, str | int] = {
        "x-message-ttl": int(LONGEST_HEARTBEAT * SECONDS),
        "x-max-length": MOST_WAITING,
        "x-dead-letter-exchange": MAIL.name,
    }
    return Queue(f"fedbroker.lobby.{cohort}", (Binding(LOBBY, f"{cohort}.*"),), arguments)


def archive(cohort: str) -> Queue:
    """Dead letters, for people to read and replay."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-message-ttl": 7 * DAYS,
        "x-max-length": 10_000,
        "x-delivery-limit": 1_000_000,  # looking at a letter counts; from RabbitMQ 4 on the limit is 20 by itself
    }
    return Queue(f"fedbroker.dead.{cohort}", (Binding(DEAD, f"{cohort}.#"),), arguments)


def callback_queue(key: str) -> Queue:
    """Replies to one coordinator, and its own work items that died; outlives a short disconnect."""
    bindings = (Binding(REPLY, f"{key}.#"), Binding(DEAD, f"*.*.{key}"))
    return Queue(f"fedbroker.callback.{key}", bindings, {"x-expires": 10 * MINUTES})


def results_queue(key: str) -> Queue:
    """Chunks on their way to one coordinator."""
    return Queue(f"fedbroker.results.{key}", (Binding(RESULTS, f"{key}.*"),), {"x-expires": 10 * MINUTES})


def roster_queue(key: str, cohort: str) -> Queue:
    """Announcements, as one coordinator hears them."""
    bindings = (Binding(LOBBY, f"{cohort}.*"),)
    arguments: dict[str, str | int] = {"x-message-ttl": 30 * SECONDS, "x-max-length": MOST_WAITING}
    return Queue(f"fedbroker.roster.{key}", bindings, arguments, exclusive=True)


def reading_lock(cohort: str) -> Queue:
    """Never holds anything: whoever has it reads the archive."""
    return Queue(f"fedbroker.reading.{cohort}", (), {}, exclusive=True)


def coordinator_mark(cohort: str) -> str:
    """What a coordinator's name in routing keys begins with: 8 hexadecimal digits that tell its cohort.

    So a topic permission can let a silo answer its own cohort's coordinators, and no others'.
    """
    return hashlib.sha256(cohort.encode()).hexdigest()[:8]


def coordinator_key(cohort: str, name: str, signer: str = "") -> str:
    """Return a coordinator's name in routing keys.

    Args:
        cohort: the cohort's name.
        name: what tells it from the cohort's other coordinators.
        signer: the fingerprint of its key, where it has one: a silo answers only under names with the fingerprint of
            the key that signed the work.
    """
    return "-".join(filter(None, (coordinator_mark(cohort), signer, name)))


def coordinator_signer(cohort: str, key: str) -> str:
    """Return the fingerprint in a coordinator's name in routing keys; empty where the name has none."""
    mark, _, rest = key.partition("-")
    signer, dash, _ = rest.partition("-")
    return signer if mark == coordinator_mark(cohort) and dash and _FINGERPRINT.fullmatch(signer) else ""


_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")


def silo_key(cohort: str, silo: str) -> str:
    """Routing key in the lobby and in the mail."""
    return f"{cohort}.{silo}"


def work_key(cohort: str, silo: str, key: str) -> str:
    """Routing key of a work item; kept when it dies."""
    return f"{cohort}.{silo}.{key}"


def reply_key(key: str, session: str, stage: int, silo: str) -> str:
    """Routing key of a reply; ends with the silo, so that topic permissions keep one from speaking for another."""
    return f"{key}.{session}.{stage}.{silo}"


def results_key(key: str, silo: str) -> str:
    """Routing key of a chunk of a result."""
    return f"{key}.{silo}"


def blobs_key(cohort: str, silo: str | None) -> str:
    """Routing key of a chunk to one silo, or, for None, to every silo of the cohort."""
    return cohort if silo is None else silo_key(cohort, silo)
