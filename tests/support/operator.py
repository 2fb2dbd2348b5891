"""Whoever runs the broker, with all that he can do there: read, hold back, change, send again, send elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aio_pika


@dataclass(frozen=True)
class Passing:
    """A message on its way.

    Attributes:
        queue: where it was going.
        key: its routing key.
        body: its bytes.
        properties: all else.
    """

    queue: str
    key: str
    body: bytes
    properties: dict[str, Any]

    def with_body(self, body: bytes) -> Passing:
        """The same with another body."""
        return replace(self, body=body)

    def to(self, queue: str) -> Passing:
        """The same to another queue."""
        return replace(self, queue=queue)


Change = Callable[[Passing], list[Passing]]
"""What becomes of a message: it, another one, several, or none."""

NAMES = ("correlation_id", "message_id", "expiration", "headers", "delivery_mode")


class Operator:
    """Stands between exchanges and queues.

    Attributes:
        seen: every message that passed, in order.
        change: what is done with each; to be replaced.
    """

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel
        self.seen: list[Passing] = []
        self.change: Change = lambda passing: [passing]
        self._made: set[str] = set()
        self._consumed: list[tuple[aio_pika.abc.AbstractQueue, str]] = []
        self._turn = asyncio.Lock()

    async def intercept(self, queue: str, exchange: str, key: str) -> None:
        """From now on what goes from an exchange to a queue goes through our hands."""
        own = await self._channel.declare_queue(exclusive=True)
        await own.bind(exchange, key)
        await (await self._channel.get_queue(queue, ensure=False)).unbind(exchange, key)

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            properties = {name: getattr(message, name) for name in NAMES}
            passing = Passing(queue, message.routing_key or "", message.body, properties)
            async with self._turn:
                self.seen.append(passing)
                for one in self.change(passing):
                    await self.send(one)
            await message.ack()

        self._consumed.append((own, await own.consume(take)))

    async def send(self, passing: Passing) -> None:
        """Put a message into its queue, under its key, as if an exchange had."""
        # A queue knows under which key a message came: an exchange of our own keeps it.
        name = f"operator.{passing.queue}"
        self._made.add(name)
        mine = await self._channel.declare_exchange(name, "topic")
        await (await self._channel.get_queue(passing.queue, ensure=False)).bind(mine, "#")
        await mine.publish(aio_pika.Message(passing.body, **passing.properties), passing.key)

    async def close(self) -> None:
        """Let go of what passes, and take away what was made for sending."""
        for queue, tag in self._consumed:
            await queue.cancel(tag)
        await self._turn.acquire()  # nobody sends any more
        for name in self._made:
            await self._channel.exchange_delete(name)


@asynccontextmanager
async def operator(url: str) -> AsyncIterator[Operator]:
    """An operator at the broker; what he made there goes with him."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        one = Operator(channel)
        try:
            yield one
        finally:
            await one.close()
