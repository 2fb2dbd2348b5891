"""All exchanges, queues, bindings and routing keys of fedbroker."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = [
    "BLOBS",
    "DEAD",
    "EVENTS",
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
    "board_queues",
    "callback_queue",
    "coordinator_id_of",
    "coordinator_prefix",
    "coordinator_signer",
    "events_key",
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
"""Maximum seconds that an announcement stays in the lobby; a silo's heartbeat is at most this."""

MAX_IN_LOBBY: Final = 20_000
"""Maximum announcements in a cohort's lobby: twice the number of silos that a coordinator admits."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: Literal["topic", "direct"]


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of a queue to an exchange: the routing keys that match ``key`` go to the queue."""

    exchange: Exchange
    key: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue, or an exclusive queue that is deleted with its connection."""

    name: str
    bindings: tuple[Binding, ...]
    arguments: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    exclusive: bool = False


WORK: Final = Exchange("fedbroker.work", "topic")
REPLY: Final = Exchange("fedbroker.reply", "topic")
BLOBS: Final = Exchange("fedbroker.blobs", "direct")
RESULTS: Final = Exchange("fedbroker.results", "topic")
LOBBY: Final = Exchange("fedbroker.lobby", "topic")
MAIL: Final = Exchange("fedbroker.mail", "direct")
DEAD: Final = Exchange("fedbroker.dead", "topic")
EXCHANGES: Final = (WORK, REPLY, BLOBS, RESULTS, LOBBY, MAIL, DEAD)
EVENTS: Final = Exchange("fedbroker.events", "topic")
"""Not one of the above: rounds run without it, at brokers and with permissions that are older than it."""


def work_queue(cohort: str, silo: str) -> Queue:
    """Return the queue of a silo's unanswered work items: replicated, redelivered three times, then dead-lettered."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 3,
        "x-single-active-consumer": True,  # if two processes of one silo consume, only one of them works
        "x-dead-letter-exchange": DEAD.name,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # at-least-once dead-lettering needs it
        "x-expires": 1 * HOURS,  # after the silo was last connected
        "x-consumer-timeout": 1 * DAYS,  # training may exceed the broker's 30 minutes; RabbitMQ 3.12 and later
    }
    return Queue(f"fedbroker.work.{cohort}.{silo}", (Binding(WORK, f"{cohort}.{silo}.*"),), arguments)


def blobs_queue(cohort: str, silo: str) -> Queue:
    """Return the queue of chunks to a silo."""
    bindings = (Binding(BLOBS, cohort), Binding(BLOBS, f"{cohort}.{silo}"))
    return Queue(f"fedbroker.blobs.{cohort}.{silo}", bindings, {}, exclusive=True)


def mailbox(cohort: str, silo: str) -> Queue:
    """Return the queue of notices to one silo; exclusive, so that it is also the lock on the silo's name."""
    return Queue(f"fedbroker.mailbox.{cohort}.{silo}", (Binding(MAIL, silo_key(cohort, silo)),), {}, exclusive=True)


def lobby_queue(cohort: str) -> Queue:
    """Return the lobby: the queue with a copy of each silo's announcement.

    The broker returns a copy to its silo's mailbox when it expires, when a reader rejects it, or when the lobby is full
    and the copy is the oldest one.
    """
    arguments: dict[str, str | int] = {
        "x-message-ttl": int(LONGEST_HEARTBEAT * SECONDS),
        "x-max-length": MAX_IN_LOBBY,
        "x-dead-letter-exchange": MAIL.name,
    }
    return Queue(f"fedbroker.lobby.{cohort}", (Binding(LOBBY, f"{cohort}.*"),), arguments)


def archive(cohort: str) -> Queue:
    """Return the queue of a cohort's dead letters, for people to read and replay."""
    arguments: dict[str, str | int] = {
        "x-queue-type": "quorum",
        "x-message-ttl": 7 * DAYS,  # age and number of dead letters are bounded for the sake of the broker's disk
        "x-max-length": 10_000,
        "x-delivery-limit": 1_000_000,  # browsing counts as a delivery, and RabbitMQ 4 limits them to 20 by default
    }
    return Queue(f"fedbroker.dead.{cohort}", (Binding(DEAD, f"{cohort}.#"),), arguments)


def callback_queue(coordinator_id: str) -> Queue:
    """Return the queue of a coordinator's replies and dead-lettered work items; it outlives a short disconnect."""
    bindings = (Binding(REPLY, f"{coordinator_id}.#"), Binding(DEAD, f"*.*.{coordinator_id}"))
    return Queue(f"fedbroker.callback.{coordinator_id}", bindings, {"x-expires": 10 * MINUTES})


def results_queue(coordinator_id: str) -> Queue:
    """Return the queue of chunks to one coordinator."""
    return Queue(
        f"fedbroker.results.{coordinator_id}", (Binding(RESULTS, f"{coordinator_id}.*"),), {"x-expires": 10 * MINUTES}
    )


def roster_queue(coordinator_id: str, cohort: str) -> Queue:
    """Return the queue of announcements to one coordinator."""
    bindings = (Binding(LOBBY, f"{cohort}.*"),)
    arguments: dict[str, str | int] = {"x-message-ttl": 30 * SECONDS, "x-max-length": MAX_IN_LOBBY}
    return Queue(f"fedbroker.roster.{coordinator_id}", bindings, arguments, exclusive=True)


def reading_lock(cohort: str) -> Queue:
    """Return the lock on reading the archive: an exclusive queue that never holds a message."""
    return Queue(f"fedbroker.reading.{cohort}", (), {}, exclusive=True)


def board_queues(board: str, cohorts: tuple[str, ...] = ()) -> tuple[Queue, Queue]:
    """Return a board's queues, of announcements and of events; without cohorts, of all cohorts.

    A board that does not keep up loses the oldest messages.
    """
    names = cohorts or ("*",)
    arguments: dict[str, str | int] = {"x-message-ttl": 30 * SECONDS, "x-max-length": MAX_IN_LOBBY}
    silos, events = (
        Queue(
            f"fedbroker.board.{board}.{kind}",
            tuple(Binding(exchange, f"{name}.*") for name in names),
            arguments,
            exclusive=True,
        )
        for kind, exchange in (("silos", LOBBY), ("events", EVENTS))
    )
    return silos, events


def coordinator_prefix(cohort: str) -> str:
    """Return the prefix of the coordinator ids of a cohort: 8 hexadecimal digits.

    A topic permission on this prefix lets a silo reply to the coordinators of its own cohort only.
    """
    return hashlib.sha256(cohort.encode()).hexdigest()[:8]


def coordinator_id_of(cohort: str, name: str, signer: str = "") -> str:
    """Return a coordinator id, the coordinator's name in routing keys.

    Args:
        cohort: the cohort's name.
        name: distinguishes the coordinators of one cohort.
        signer: fingerprint of the coordinator's key, if it has one: a silo replies only to an id that contains the
            fingerprint of the key that signed the work.
    """
    return "-".join(filter(None, (coordinator_prefix(cohort), signer, name)))


def coordinator_signer(cohort: str, coordinator_id: str) -> str:
    """Return the fingerprint in a coordinator id; empty if the id contains none."""
    prefix, _, rest = coordinator_id.partition("-")
    signer, dash, _ = rest.partition("-")
    return signer if prefix == coordinator_prefix(cohort) and dash and _FINGERPRINT.fullmatch(signer) else ""


_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")


def silo_key(cohort: str, silo: str) -> str:
    """Return the routing key of announcements of a silo and of notices to it."""
    return f"{cohort}.{silo}"


def work_key(cohort: str, silo: str, coordinator_id: str) -> str:
    """Return the routing key of a work item; a dead-lettered item keeps it."""
    return f"{cohort}.{silo}.{coordinator_id}"


def reply_key(coordinator_id: str, session_id: str, stage: int, silo: str) -> str:
    """Return the routing key of a reply.

    The key ends with the silo's name, so that topic permissions prevent a silo from replying for another one.
    """
    return f"{coordinator_id}.{session_id}.{stage}.{silo}"


def results_key(coordinator_id: str, silo: str) -> str:
    """Return the routing key of a chunk of an output."""
    return f"{coordinator_id}.{silo}"


def blobs_key(cohort: str, silo: str | None) -> str:
    """Return the routing key of a chunk to one silo, or to all silos of the cohort (None)."""
    return cohort if silo is None else silo_key(cohort, silo)


def events_key(cohort: str, coordinator_id: str) -> str:
    """Return the routing key of a coordinator's events."""
    return f"{cohort}.{coordinator_id}"
