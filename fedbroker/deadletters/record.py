"""What a dead letter says on its envelope: whose it was, why and when it died.

Imports transport.message, wire and the base.
"""

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

DELIVERED: Final = {"rejected": 1, "delivery_limit": 4}
"""How often a message was delivered at least: all that is known, since the broker forgets the count with its death.

The fourth delivery is the one that topology's limit of three redeliveries ends.
"""

LOOKS: Final = "x-delivery-count"
"""Not the letter's own header: the archive's, which counts how often somebody looked at the letter."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A work item that died, without its program.

    Attributes:
        id: the message's; of one without, the digest of its body.
        silo: whom it was for.
        coordinator: the key of who sent it.
        reason: ``expired`` (nobody picked it up in time), ``delivery_limit`` (picked up again and again, never
            acknowledged), ``rejected`` (the silo could not read it), or the broker's own word.
        died: when; None where the broker does not say.
        deliveries: how often the silo got it, at least.
        size: of its body, in bytes.
        session: its session; None for a body that cannot be read.
        stage: its stage; None for a body that cannot be read.
        flaw: why its body cannot be read; empty where it can.
        key: its routing key.
        headers: as the broker wrote them when it died.
    """

    id: str
    silo: str
    coordinator: str
    reason: str
    died: datetime | None
    deliveries: int
    size: int
    session: str | None
    stage: int | None
    flaw: str
    key: str
    headers: Mapping[str, Any]

    @classmethod
    def of(cls, delivery: Delivery, limits: Limits = DEFAULT_LIMITS) -> DeadLetter:
        """From a message of the archive; whatever is in it, it can be listed."""
        words = [*delivery.key.split("."), "", "", ""]
        item, flaw = None, ""
        try:
            item = WorkBundle.opened(delivery.body, limits).item
        except WireError as error:
            flaw = error.what
        reason = delivery.death or "unknown"
        return cls(
            id=delivery.message_id or digest_of(delivery.body),
            silo=words[1],
            coordinator=words[2],
            reason=reason,
            died=_died(delivery.headers),
            deliveries=DELIVERED.get(reason, 0),
            size=len(delivery.body),
            session=item.session if item is not None else None,
            stage=item.stage if item is not None else None,
            flaw=flaw,
            key=delivery.key,
            headers={name: value for name, value in delivery.headers.items() if name != LOOKS},
        )


def choose(cohort: str, prefix: str, ids: Sequence[str]) -> str:
    """The one id that is meant by its first characters.

    Raises:
        CohortError: none is, or several.
    """
    meant = list(dict.fromkeys(one for one in ids if one.startswith(prefix)))
    if prefix in meant or len(meant) == 1:
        return prefix if prefix in meant else meant[0]
    if not prefix or not meant:
        raise CohortError(f"cohort {cohort!r} has no dead letter {prefix!r}", hint="`fedbroker dead list` shows them")
    raise CohortError(
        f"{len(meant)} dead letters of cohort {cohort!r} begin with {prefix!r}", hint="write more of the id"
    )


def _died(headers: Mapping[str, Any]) -> datetime | None:
    match headers.get("x-death"):
        case [{"time": datetime() as time}, *_]:
            return time
        case _:
            return None
