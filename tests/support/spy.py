"""Copies of all messages that pass a cohort's exchanges, for tests of the data that leaves a silo."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aio_pika

from fedbroker.transport import topology

__all__ = ["MessageCopy", "contains_mark", "message_spy"]


@dataclass(frozen=True)
class MessageCopy:
    """A message.

    Attributes:
        exchange: the exchange that it passed.
        key: its routing key.
        body: its bytes.
        properties: headers and all other properties, as text.
    """

    exchange: str
    key: str
    body: bytes
    properties: str

    @property
    def everything(self) -> bytes:
        """Return all bytes that could hide data."""
        return b"\n".join((self.key.encode(), self.properties.encode(), self.body))


@asynccontextmanager
async def message_spy(url: str, cohort: str, silo: str) -> AsyncIterator[list[MessageCopy]]:
    """Yield copies of all further messages: work, replies, blobs, announcements, notices, dead letters."""
    copies: list[MessageCopy] = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for exchange in topology.EXCHANGES:
            own = await channel.declare_exchange(exchange.name, exchange.kind, durable=True)
            keys = ("#",) if exchange.kind == "topic" else (cohort, f"{cohort}.{silo}", topology.silo_key(cohort, silo))
            for key in dict.fromkeys(keys):
                await queue.bind(own, key)

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            properties = repr(message.info())
            copies.append(MessageCopy(message.exchange or "", message.routing_key or "", message.body, properties))
            await message.ack()

        tag = await queue.consume(take)
        yield copies
        await queue.cancel(tag)


def contains_mark(data: bytes, mark: str) -> bool:
    """Return whether data contain a mark: in any case, in other encodings of text, or in base64 at any alignment."""
    lower = data.lower()
    forms = [mark.encode(), mark.encode("utf-16-le"), mark.encode().hex().encode(), mark[::-1].encode()]
    if any(form.lower() in lower for form in forms):
        return True
    # The first and the last character of base64 depend on the neighbouring bytes.
    aligned = (base64.b64encode(b"\0" * at + mark.encode()) for at in range(3))
    return any(form.rstrip(b"=")[4 if at else 0 : -1] in data for at, form in enumerate(aligned))
