"""The broker's alarm for memory or disk space: while it lasts, the broker reads no message from a publisher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import aiormq.abc
from pamqp import commands

from fedbroker.errors import BrokerLost
from fedbroker.text import printable

__all__ = ["Alarm", "blocked"]

_ON_BLOCKED: Final = "_Connection__handle_connection_blocked"
_ON_UNBLOCKED: Final = "_Connection__handle_connection_unblocked"
"""aiormq's handlers of the broker's notices. It has no hook for them, and only writes the reason to its log."""


class Alarm:
    """The alarm as one connection sees it. The broker tells a connection of it only once that has published a message.

    Attributes:
        reason: the broker's words, such as ``low on memory``; empty while the broker accepts messages.
        on_change: called with each new reason, and with an empty one at the end of the alarm.
    """

    reason: str
    on_change: Callable[[str], None]

    def __init__(self) -> None:
        self.reason = ""
        self.on_change = lambda _: None
        self._over = asyncio.Event()
        self._over.set()

    def watch(self, connection: aiormq.abc.AbstractConnection) -> None:
        """Receive the broker's notices on an open connection."""
        on_blocked: Callable[[commands.Connection.Blocked], Awaitable[None]] = getattr(connection, _ON_BLOCKED)
        on_unblocked: Callable[[commands.Connection.Unblocked], Awaitable[None]] = getattr(connection, _ON_UNBLOCKED)

        async def blocked(frame: commands.Connection.Blocked) -> None:
            self._set(printable(frame.reason or "") or "out of resources")
            await on_blocked(frame)

        async def unblocked(frame: commands.Connection.Unblocked) -> None:
            self._set("")
            await on_unblocked(frame)

        setattr(connection, _ON_BLOCKED, blocked)
        setattr(connection, _ON_UNBLOCKED, unblocked)

    async def over(self) -> None:
        """Wait until the broker accepts messages from this connection."""
        await self._over.wait()

    def _set(self, reason: str) -> None:
        changed, self.reason = reason != self.reason, reason
        if reason:
            self._over.clear()
        else:
            self._over.set()
        if changed:
            self.on_change(reason)


def blocked(address: object, reason: str) -> BrokerLost:
    """Return the error for a message that the broker did not accept during an alarm."""
    return BrokerLost(
        f"the broker at {address} accepts no messages: it is {reason}",
        hint="have its operator free memory or disk space (`rabbitmqctl status` names the alarm)",
    )
