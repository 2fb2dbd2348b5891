"""Errors of a connection and its channels, and the one translation of aiormq's errors into them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import Final, TypeVar

import aiormq.exceptions
from pamqp import commands

from fedbroker.errors import BrokerError, BrokerRefused, TopologyMismatch
from fedbroker.text import printable

__all__ = [
    "IN_USE",
    "LIMIT_REACHED",
    "NO_EXCHANGE",
    "ConnectionLost",
    "Locked",
    "Nacked",
    "NotFound",
    "RetrySetup",
    "Unroutable",
    "broker_words",
    "first_line",
    "forbidden",
    "guarded",
    "limit_reached",
    "not_enrolled",
    "refused",
    "show_close_reasons",
    "translated",
]

_T = TypeVar("_T")

IN_USE: Final = "exclusive use"
"""Words in the broker's error if a queue has an exclusive consumer, and not if a permission is missing."""


NO_EXCHANGE: Final = "no exchange"
"""Words in the broker's error if a message is published to an exchange that does not exist."""
LIMIT_REACHED: Final = "is reached"
"""Words in the broker's error if a limit of the virtual host or the user excludes one more connection or queue."""


class ConnectionLost(Exception):
    """The connection ended; a message in flight may or may not have arrived.

    Attributes:
        refusal: the error for the user if another attempt ends the same way; None if only another attempt can tell.
    """

    def __init__(self, reason: str, refusal: BrokerError | None = None) -> None:
        super().__init__(reason)
        self.refusal = refusal


class RetrySetup(Exception):
    """The setup repaired something at the broker and must run once more, on a new connection."""


class NotFound(Exception):
    """A queue or exchange does not exist, or the one node that holds a durable classic queue is down."""


class Nacked(Exception):
    """The broker did not accept a message: a queue is full, or has no leader at the moment."""


class Unroutable(Exception):
    """A mandatory message matched no queue."""


class Locked(BrokerRefused):
    """A queue belongs to another connection."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is in use by another connection", hint="stop the other process, or wait until it ends"
        )


def forbidden(what: str, error: Exception) -> BrokerRefused:
    """Return the error for a missing permission."""
    return BrokerRefused(
        f"no permission for {what} ({first_line(error)})",
        hint="have the broker's operator give this user the permissions (`rabbitmqctl set_permissions`)",
    )


def limit_reached(what: str, words: str) -> BrokerRefused:
    """Return the error for a limit of the virtual host or the user; ``words`` are the broker's."""
    return BrokerRefused(
        f"{what}: {words}",
        hint="have the broker's operator raise the limit (`rabbitmqctl set_vhost_limits` or `set_user_limits`)",
    )


def not_enrolled(what: str) -> BrokerRefused:
    """Return the error for a missing queue of an enrolled silo."""
    return BrokerRefused(
        f"{what} does not exist at the broker, although [silo] has enrolled = true",
        hint="have the broker's operator enrol this silo (`fedbroker admin enroll`), or correct name, cohort and vhost",
    )


def translated(error: Exception, what: str) -> Exception:
    """Return the typed error for a request to the broker that failed; ``what`` names the queue or exchange.

    Returns:
        TopologyMismatch: it exists with other properties.
        Locked: it belongs to another connection, or has an exclusive consumer.
        BrokerRefused: no permission, or a limit is reached.
        NotFound: it does not exist, or the node that holds it is down.
        ConnectionLost: any other error; the connection cannot be used any more.
    """
    match error:
        case aiormq.exceptions.ChannelPreconditionFailed() if LIMIT_REACHED in str(error):
            return limit_reached(f"the broker makes no {what}", first_line(error))
        case aiormq.exceptions.ChannelPreconditionFailed():
            return TopologyMismatch(
                f"{what} exists at the broker with properties that differ from ours ({first_line(error)})",
                hint="delete it at the broker if it is not needed, or use another cohort",
            )
        case aiormq.exceptions.ChannelLockedResource():
            return Locked(what)
        case aiormq.exceptions.ChannelAccessRefused():
            return Locked(what) if IN_USE in str(error) else forbidden(what, error)
        case aiormq.exceptions.ChannelNotFoundEntity():
            return NotFound(first_line(error))
        case _:
            return ConnectionLost(first_line(error))


def refused(error: Exception, what: str) -> BrokerError | None:
    """Return the error for a message that the broker refuses on every attempt; None if another attempt may succeed."""
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        return forbidden(what, error)
    if isinstance(error, aiormq.exceptions.ChannelPreconditionFailed):
        return BrokerRefused(
            f"the broker refused a message to {what} ({first_line(error)})",
            hint="have the broker's operator raise its limits, or send smaller messages",
        )
    return None


_CLOSE: Final = re.compile(r"Connection\.Close (?:[A-Z_]+ - )?(?P<words>.+)")
MAX_WORDS: Final = 300
"""Characters of the broker's text in an error."""


def show_close_reasons() -> None:
    """Let pamqp's ``Connection.Close`` show its text: aiormq's error for a refused vhost tells nothing else of it."""
    commands.Connection.Close.__repr__ = _shown  # type: ignore[method-assign]


def _shown(close: object) -> str:
    return f"Connection.Close {printable(getattr(close, 'reply_text', ''))}"


def broker_words(error: Exception) -> str:
    """Return the broker's text in aiormq's error for an unexpected frame; empty if it has none."""
    found = _CLOSE.search(str(error))
    return found["words"][:MAX_WORDS] if found else ""


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's text, at most 300 characters; "closed" if the error is None."""
    return "closed" if error is None else (str(error) or type(error).__name__).splitlines()[0][:300]


async def guarded(awaitable: Awaitable[_T]) -> _T:
    """Return the awaitable's result; tell a lost connection from a cancellation.

    When a connection is lost, aiormq cancels the futures that callers await, although their tasks were not cancelled.

    Raises:
        ConnectionError: the connection was lost.
    """
    try:
        return await awaitable
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the connection was closed") from None
