"""A message on its way out, and one that came in, as far as fedbroker cares for their properties.

Imports transport.connect, transport.topology and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiormq.abc
from pamqp import commands

from fedbroker.log import get_logger
from fedbroker.printable import printable
from fedbroker.transport.amqp.dial import guarded
from fedbroker.transport.amqp.exceptions import first_line
from fedbroker.transport.topology import Exchange

__all__ = ["Delivery", "Outgoing"]

_log = get_logger(__name__)

ACK_TIMEOUT: Final = 15.0
"""Seconds to get an acknowledgement into the socket."""

LONGEST_WORDS: Final = 255
"""Bytes of a routing key, or of a property that is words."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish.

    Attributes:
        exchange: where to.
        key: its routing key.
        body: its bytes.
        persistent: whether it survives a restart of the broker.
        mandatory: whether it is an error that no queue takes it.
        correlation_id: which conversation it belongs to.
        message_id: its own name; the library chooses one where it is None.
        expiration: seconds after which the broker gives it up.
        headers: numbers and words that go with it.
    """

    exchange: Exchange
    key: str
    body: bytes
    persistent: bool = True
    mandatory: bool = False
    correlation_id: str | None = None
    message_id: str | None = None
    expiration: float | None = None
    headers: Mapping[str, int | str] = field(default_factory=dict)

    def properties(self) -> commands.Basic.Properties:
        """The same as AMQP has it."""
        expiration = None if self.expiration is None else str(max(0, round(self.expiration * 1000)))
        return commands.Basic.Properties(
            delivery_mode=2 if self.persistent else 1,
            correlation_id=self.correlation_id,
            message_id=self.message_id,
            expiration=expiration,
            headers=dict(self.headers) or None,
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that came. Its routing key and ids are printable, whoever chose them; its headers are as they came."""

    body: bytes
    key: str
    correlation_id: str
    message_id: str
    headers: Mapping[str, Any]
    redelivered: bool
    _channel: aiormq.abc.AbstractChannel = field(repr=False)
    _tag: int

    @classmethod
    def of(cls, message: aiormq.abc.DeliveredMessage) -> Delivery:
        """The same as fedbroker sees it."""
        properties = message.header.properties
        return cls(
            body=message.body,
            key=printable(message.routing_key or ""),
            correlation_id=printable(properties.correlation_id or ""),
            message_id=printable(properties.message_id or ""),
            headers=properties.headers or {},
            redelivered=bool(message.redelivered),
            _channel=message.channel,
            _tag=message.delivery_tag or 0,
        )

    @property
    def can_be_copied(self) -> bool:
        """Whether AMQP has room for its routing key and ids, which printing may have made longer."""
        return all(len(one.encode()) <= LONGEST_WORDS for one in (self.key, self.correlation_id, self.message_id))

    @property
    def death(self) -> str | None:
        """Why the broker dead-lettered it, the last time that it did; None for a message that never died."""
        deaths = self.headers.get("x-death")
        if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping):
            return printable(str(deaths[0].get("reason", "")))
        return None

    async def ack(self) -> None:
        """Tell the broker to forget it; does nothing if the line has ended (the broker delivers it again)."""
        await self._settle(self._channel.basic_ack(self._tag))

    async def reject(self) -> None:
        """Have the broker dead-letter it; does nothing if the line has ended."""
        await self._settle(self._channel.basic_reject(self._tag, requeue=False))

    async def _settle(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(ACK_TIMEOUT):
                await guarded(sending)
        except Exception as error:  # whatever it is, the line is at its end, and its owner hears of that elsewhere
            _log.debug("message not acknowledged", reason=first_line(error))
