"""Outgoing messages and deliveries, with the AMQP properties that fedbroker uses.

Properties are decoded tolerantly, so that malformed ones damage one message and not the connection. RabbitMQ does not
check a message's strings, timestamps or depth of tables. pamqp raises an error if a string is not UTF-8, a timestamp is
beyond the year 9999 or a table is nested a few hundred times, and takes most of a second for a long list. aiormq's
reader does not survive an error and closes the connection. The broker then delivers the message again, on the next
connection: a sender of one malformed message could disconnect its reader for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

import aiormq.abc
from pamqp import common, decode

from fedbroker.log import get_logger
from fedbroker.text import printable
from fedbroker.transport.amqp.exceptions import first_line, guarded
from fedbroker.transport.topology import Exchange

__all__ = ["LONGEST_TABLE", "Delivery", "Outgoing", "install_tolerant_decoders"]

_log = get_logger(__name__)

ACK_TIMEOUT: Final = 15.0
"""Seconds for writing an acknowledgement: beyond that, the socket is blocked and its connection about to end."""

MAX_SHORT_STRING: Final = 255
"""Maximum bytes of a routing key or a string property: AMQP encodes them as short strings."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish.

    Attributes:
        exchange: the exchange to publish to.
        key: the routing key.
        body: the message body.
        persistent: whether the message survives a restart of the broker.
        mandatory: whether a message that matches no queue is an error.
        correlation_id: the request that the message belongs to.
        message_id: the message's id; None: the library chooses one.
        expiration: seconds after which the broker discards or dead-letters the message.
        headers: integers and strings sent with the message.
    """

    exchange: Exchange
    key: str
    body: bytes
    persistent: bool = True
    mandatory: bool = False
    correlation_id: str | None = None
    message_id: str | None = None
    expiration: float | None = None
    headers: Mapping[str, int | str] = field(default_factory=dict[str, int | str])


@dataclass(frozen=True, slots=True)
class Delivery:
    """A received message. Its routing key and ids are made printable; its headers are unchanged."""

    body: bytes
    key: str
    correlation_id: str
    message_id: str
    headers: Mapping[str, Any]
    redelivered: bool
    tag: int
    _channel: aiormq.abc.AbstractChannel = field(repr=False)

    @classmethod
    def of(cls, message: aiormq.abc.DeliveredMessage) -> Delivery:
        """Build a delivery from aiormq's message."""
        properties = message.header.properties
        return cls(
            body=message.body,
            key=printable(message.routing_key or ""),
            correlation_id=printable(properties.correlation_id or ""),
            message_id=printable(properties.message_id or ""),
            headers=properties.headers or {},
            redelivered=bool(message.redelivered),
            tag=message.delivery_tag or 0,
            _channel=message.channel,
        )

    @property
    def can_be_copied(self) -> bool:
        """True if the routing key and ids fit into AMQP's limits; escaping may have made them longer."""
        lengths = len(self.key.encode()), len(self.correlation_id.encode()), len(self.message_id.encode())
        return max(lengths) <= MAX_SHORT_STRING

    @property
    def death(self) -> str | None:
        """The reason of the last dead-lettering by the broker; None if the message was never dead-lettered."""
        deaths: object = self.headers.get("x-death")
        latest = cast("list[object]", deaths)[0] if isinstance(deaths, list) and deaths else None
        if isinstance(latest, Mapping):
            return printable(str(cast("Mapping[str, object]", latest).get("reason", "")))
        return None

    async def ack(self) -> None:
        """Acknowledge the message. No effect if the connection has ended: the broker then delivers it again."""
        await self._settle(self._channel.basic_ack(self.tag))

    async def reject(self) -> None:
        """Reject the message, so that the broker dead-letters it. No effect if the connection has ended."""
        await self._settle(self._channel.basic_reject(self.tag, requeue=False))

    async def _settle(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(ACK_TIMEOUT):
                await guarded(sending)
        except Exception as error:  # any error means that the connection ended; its owner is told through ``down``
            _log.debug("message_not_acknowledged", reason=first_line(error))


LONGEST_TABLE: Final = 16 * 1024
"""Maximum bytes of headers to decode: pamqp takes up to 10 ms for this length, and up to 700 ms for 128 KiB."""

_SIZE: Final = 4
"""Bytes of a table's length prefix."""

_NO_TIME: Final = datetime.fromtimestamp(0, UTC)


def install_tolerant_decoders() -> None:
    """Replace pamqp's decoders of strings, tables and timestamps by tolerant ones, for the whole process.

    aiormq has no hook for this, so the decoders are replaced in pamqp's table. The decoded values are the same for all
    input that pamqp decodes without an error.
    """
    decode.METHODS.update(shortstr=_short_string, table=_table, timestamp=_timestamp)


def _short_string(value: bytes) -> tuple[int, str]:
    r"""Decode a short string; invalid UTF-8 becomes escapes like ``\xff``, which no name of ours contains."""
    try:
        return decode.short_str(value)
    except UnicodeDecodeError:
        end = 1 + value[0]
        return end, value[1:end].decode("utf-8", "backslashreplace")


def _table(value: bytes) -> tuple[int, common.FieldTable]:
    """Decode headers; a table that is malformed or longer than ``LONGEST_TABLE`` counts as empty."""
    end = _SIZE + int.from_bytes(value[:_SIZE])
    if _SIZE + LONGEST_TABLE < end <= len(value):
        return end, {}
    try:
        return decode.field_table(value)
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        if end > len(value):
            raise  # the frame is shorter than its table: the frame is broken, not the sender's table
        return end, {}


def _timestamp(value: bytes) -> tuple[int, datetime]:
    """Decode a timestamp; a value that Python cannot represent becomes 1970."""
    try:
        return decode.timestamp(value)
    except (ValueError, ArithmeticError, OSError):
        return 8, _NO_TIME
