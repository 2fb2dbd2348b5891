"""The broker's operator as an attacker: can read, hold back, change, repeat and redirect messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aio_pika


@dataclass(frozen=True)
class InterceptedMessage:
    """A message in transit.

    Attributes:
        queue: its destination.
        key: its routing key.
        body: its bytes.
        properties: all other properties.
    """

    queue: str
    key: str
    body: bytes
    properties: dict[str, Any]

    def with_body(self, body: bytes) -> InterceptedMessage:
        """Return the message with another body."""
        return replace(self, body=body)

    def to(self, queue: str) -> InterceptedMessage:
        """Return the message, redirected to another queue."""
        return replace(self, queue=queue)


Change = Callable[[InterceptedMessage], list[InterceptedMessage]]
"""Maps a message to the messages to deliver instead: itself, another, several, or none."""

NAMES = ("correlation_id", "message_id", "expiration", "headers", "delivery_mode")


class BrokerOperator:
    """An attacker between exchanges and queues.

    Attributes:
        seen: every message that passed, in order.
        change: applied to each message; may be replaced.
    """

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel
        self.seen: list[InterceptedMessage] = []
        self.change: Change = lambda passing: [passing]
        self._made: set[str] = set()
        self._consumed: list[tuple[aio_pika.abc.AbstractQueue, str]] = []
        self._turn = asyncio.Lock()

    async def intercept(self, queue: str, exchange: str, key: str) -> None:
        """Route all further messages from an exchange to a queue through this operator."""
        own = await self._channel.declare_queue(exclusive=True)
        await own.bind(exchange, key)
        await (await self._channel.get_queue(queue, ensure=False)).unbind(exchange, key)

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            properties = {name: getattr(message, name) for name in NAMES}
            passing = InterceptedMessage(queue, message.routing_key or "", message.body, properties)
            async with self._turn:
                self.seen.append(passing)
                for one in self.change(passing):
                    await self.send(one)
            await message.ack()

        self._consumed.append((own, await own.consume(take)))

    async def send(self, passing: InterceptedMessage) -> None:
        """Put a message into its queue under its routing key, as an exchange would."""
        # A queue records a message's routing key: an exchange of our own preserves it.
        name = f"operator.{passing.queue}"
        self._made.add(name)
        mine = await self._channel.declare_exchange(name, "topic")
        await (await self._channel.get_queue(passing.queue, ensure=False)).bind(mine, "#")
        await mine.publish(aio_pika.Message(passing.body, **passing.properties), passing.key)

    async def close(self) -> None:
        """Stop intercepting, and delete the exchanges made for sending."""
        for queue, tag in self._consumed:
            await queue.cancel(tag)
        await self._turn.acquire()  # no message is being passed on any more
        for name in self._made:
            await self._channel.exchange_delete(name)


@asynccontextmanager
async def broker_operator(url: str) -> AsyncIterator[BrokerOperator]:
    """Run an operator at the broker within the block; its exchanges and queues are removed at the end."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        one = BrokerOperator(channel)
        try:
            yield one
        finally:
            await one.close()
