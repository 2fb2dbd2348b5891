"""What can go wrong on a line, and aiormq's words for it in ours. Imports the base only."""

from __future__ import annotations

from typing import Final

import aiormq.exceptions

from fedbroker.errors import BrokerError, BrokerRefused

__all__ = [
    "IN_USE",
    "ConnectionLost",
    "Locked",
    "Nacked",
    "QueueNodeDown",
    "RetrySetup",
    "Unroutable",
    "first_line",
    "forbidden",
    "refused",
    "unmade",
]

IN_USE: Final = "exclusive use"
"""What the broker says of a queue that somebody consumes alone, and not of a lacking permission."""


class ConnectionLost(Exception):
    """The line ended; a message that was on its way may or may not have arrived.

    Attributes:
        refusal: what to tell the user if trying again ends the same way; None where trying again is all there is.
    """

    def __init__(self, why: str, refusal: BrokerError | None = None) -> None:
        super().__init__(why)
        self.refusal = refusal


class RetrySetup(Exception):
    """Something at the broker was mended on the way: set up once more, on a new line."""


class QueueNodeDown(Exception):
    """A durable queue lives on one node of the cluster only, and that one is down: it is neither there nor gone."""


class Nacked(Exception):
    """The broker did not take a message: a queue is full, or has no leader just now."""


class Unroutable(Exception):
    """No queue wants a mandatory message."""


class Locked(BrokerRefused):
    """A queue belongs to another connection."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is in use by another connection", hint="stop the other one, or wait until it is gone")


def forbidden(what: str, error: Exception) -> BrokerRefused:
    """The user lacks a permission."""
    return BrokerRefused(
        f"no permission for {what} ({first_line(error)})",
        hint="have the broker's operator give this user the permissions (`rabbitmqctl set_permissions`)",
    )


def unmade(what: str) -> BrokerRefused:
    """A queue of an enrolled silo's is not there."""
    return BrokerRefused(
        f"{what} is not at the broker, though [silo] says enrolled = true",
        hint="have the broker's operator enrol this silo (`fedbroker admin enroll`), or correct name, cohort and vhost",
    )


def refused(error: Exception, what: str) -> BrokerError | None:
    """What to tell about a message that the broker does not take however often it is sent."""
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return forbidden(what, error)
    if isinstance(error, aiormq.exceptions.ChannelPreconditionFailed):
        return BrokerRefused(
            f"the broker refused a message to {what} ({first_line(error)})",
            hint="have the broker's operator raise its limits, or send smaller messages",
        )
    return None


def first_line(error: BaseException | None) -> str:
    """What an error says, short; "closed" for none."""
    return "closed" if error is None else (str(error) or type(error).__name__).splitlines()[0][:300]
