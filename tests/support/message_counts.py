"""Counts messages at the broker's exchanges, by a queue of the test's own that is bound like the regular ones."""

from __future__ import annotations

import asyncio
import contextlib

import aio_pika


@contextlib.asynccontextmanager
async def message_counter(url: str, *exchanges: str):
    """Yield a coroutine that returns the number of messages that have passed each exchange so far."""
    connection = await aio_pika.connect(url)
    async with asyncio.timeout(30), connection:
        channel = await connection.channel()
        queues = {}
        for exchange in exchanges:
            queues[exchange] = await channel.declare_queue(exclusive=True)
            await queues[exchange].bind(exchange, "#")

        async def count() -> dict[str, int]:
            found = {}
            for exchange, queue in queues.items():
                declared = await channel.declare_queue(queue.name, passive=True)
                found[exchange] = declared.declaration_result.message_count
            return found

        yield count


@contextlib.asynccontextmanager
async def byte_counter(url: str, *bindings: tuple[str, str]):
    """Yield a coroutine that returns the bytes that have passed exchanges under a key since its last call."""
    connection = await aio_pika.connect(url)
    async with asyncio.timeout(120), connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for exchange, key in bindings:
            await queue.bind(exchange, key)

        async def weight() -> int:
            total = 0
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                total += len(message.body)
            return total

        yield weight
