"""The record of a dead letter: its silo and coordinator, and the reason and time of its death."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fedbroker.deadletters.bundle import WorkBundle
from fedbroker.errors import CohortError, WireError
from fedbroker.transport.amqp.message import Delivery
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["DeadLetter", "choose"]

MIN_DELIVERIES: Final = {"rejected": 1, "delivery_limit": 4}
"""Minimum number of deliveries by reason. The exact number is unknown: the broker forgets the count when a letter dies.

The limit of three redeliveries, set in topology, is exceeded after the fourth delivery.
"""

BROWSE_COUNT: Final = "x-delivery-count"
"""Header that is left out: it counts how often the letter was read in the archive, not its deliveries to the silo."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead-lettered work item, without its operations.

    Attributes:
        id: id of the message; if it has none, the digest of its body.
        silo: the silo that it was sent to.
        coordinator: coordinator_id of its sender.
        reason: ``expired`` (the silo did not pick it up in time), ``delivery_limit`` (picked up again and again, never
            acknowledged), ``rejected`` (the silo could not read it), or the broker's reason as it is.
        died: time of its death; None if the broker does not tell it.
        deliveries: minimum number of its deliveries to the silo.
        size: size of its body, in bytes.
        session_id: of the work item; None if the body cannot be read.
        stage: stage of the work item; None if the body cannot be read.
        flaw: reason why the body cannot be read; empty if it can.
        key: routing key.
        headers: headers that the broker wrote when it died.
    """

    id: str
    silo: str
    coordinator: str
    reason: str
    died: datetime | None
    deliveries: int
    size: int
    session_id: str | None
    stage: int | None
    flaw: str
    key: str
    headers: Mapping[str, Any]

    @classmethod
    def of(cls, delivery: Delivery, limits: Limits = DEFAULT_LIMITS) -> DeadLetter:
        """Return the record of a message in the archive. A message with an unreadable body has a record, too."""
        key_parts = [*delivery.key.split("."), "", "", ""]
        item, flaw = None, ""
        try:
            item = WorkBundle.opened(delivery.body, limits).item
        except WireError as error:
            flaw = error.what
        reason = delivery.death or "unknown"
        return cls(
            id=delivery.message_id or digest_of(delivery.body),
            silo=key_parts[1],
            coordinator=key_parts[2],
            reason=reason,
            died=_died(delivery.headers),
            deliveries=MIN_DELIVERIES.get(reason, 0),
            size=len(delivery.body),
            session_id=item.session_id if item is not None else None,
            stage=item.stage if item is not None else None,
            flaw=flaw,
            key=delivery.key,
            headers={name: value for name, value in delivery.headers.items() if name != BROWSE_COUNT},
        )


def choose(cohort: str, prefix: str, ids: Sequence[str]) -> str:
    """Return the only id that begins with ``prefix``.

    Raises:
        CohortError: no id does, or several do.
    """
    matching = list(dict.fromkeys(letter_id for letter_id in ids if letter_id.startswith(prefix)))
    if prefix in matching or len(matching) == 1:
        return prefix if prefix in matching else matching[0]
    if not prefix or not matching:
        raise CohortError(
            f"cohort {cohort!r} has no dead letter {prefix!r}", hint="`fedbroker dead-letters list` shows them"
        )
    raise CohortError(
        f"{len(matching)} dead letters of cohort {cohort!r} begin with {prefix!r}",
        hint="give more characters of the id",
    )


def _died(headers: Mapping[str, Any]) -> datetime | None:
    match headers.get("x-death"):
        case [{"time": datetime() as time}, *_]:
            return time
        case _:
            return None
