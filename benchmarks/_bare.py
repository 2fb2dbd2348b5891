"""A round as a plain aio-pika program: the lower bound for moving the same bytes through the broker.

The same pattern as fedbroker's: one direct exchange through which each chunk leaves the coordinator once for all silos,
a classic queue for each reader, transient messages, confirms with a window of 8 chunks, chunks as large as fedbroker's.
No digests, no headers, no assembling and no serialization. A child process, coordinator or silo according to its first
message.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage

from benchmarks._children import say, serve

WINDOW = 8  # as of fedbroker's bulk connection
PREFETCH = 16


class Reader:
    """Counts the bytes that arrive in a queue; holds them until all have arrived, as any reader of a blob must."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[bytes] = []
        self._bytes = 0
        self._whole = asyncio.Event()

    async def take(self, message: AbstractIncomingMessage) -> None:
        self._held.append(message.body)
        self._bytes += len(message.body)
        if self._bytes >= self._size:
            self._whole.set()
        await message.ack()

    async def whole(self) -> None:
        """Wait until all expected bytes have arrived; then start again from zero."""
        await self._whole.wait()
        self._whole.clear()
        self._held.clear()
        self._bytes = 0


async def send(exchange: AbstractExchange, key: str, data: bytes, chunk: int) -> None:
    """Send bytes in chunks, with a window of unconfirmed ones; return when all are confirmed."""
    window = asyncio.Semaphore(WINDOW)
    async with asyncio.TaskGroup() as under_way:
        for start in range(0, len(data), chunk):
            await window.acquire()
            message = aio_pika.Message(data[start : start + chunk])
            under_way.create_task(exchange.publish(message, key)).add_done_callback(lambda _: window.release())


async def reading(channel: AbstractChannel, exchange: str, key: str, reader: Reader) -> AbstractExchange:
    """Return the exchange, with a consumed queue bound to it."""
    there = await channel.declare_exchange(exchange, "direct", auto_delete=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(there, key)
    await queue.consume(reader.take)
    return there


async def silo(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Send as many bytes back as arrived, whenever all have arrived."""
    data = os.urandom(first["size"])
    async with await aio_pika.connect(first["url"]) as connection:
        channel = await connection.channel()
        await channel.set_qos(PREFETCH)
        reader = Reader(first["size"])
        await reading(channel, f"{first['name']}.down", "all", reader)
        up = await channel.declare_exchange(f"{first['name']}.up", "direct", auto_delete=True)
        say(ready=True)

        async def answer() -> None:
            while True:
                await reader.whole()
                await send(up, "coordinator", data, first["chunk"])

        answering = asyncio.create_task(answer())
        async for _ in words:
            pass
        answering.cancel()


async def coordinator(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Send the bytes to all silos at each order, and wait for as many from each."""
    data = os.urandom(first["size"])
    async with await aio_pika.connect(first["url"]) as connection:
        channel = await connection.channel()
        await channel.set_qos(PREFETCH)
        reader = Reader(first["size"] * first["silos"])
        await reading(channel, f"{first['name']}.up", "coordinator", reader)
        down = await channel.declare_exchange(f"{first['name']}.down", "direct", auto_delete=True)
        say(ready=True)
        async for _ in words:
            start = time.perf_counter()
            await send(down, "all", data, first["chunk"])
            await reader.whole()
            say(seconds=time.perf_counter() - start)


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    await (coordinator if "silos" in first else silo)(first, words)


if __name__ == "__main__":
    serve(main)
