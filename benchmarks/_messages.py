"""Counts a cohort's messages at the broker, by a queue that is bound like the regular ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

import aio_pika
from aio_pika.abc import AbstractQueue

from fedbroker.transport import topology


@contextlib.contextmanager
def message_counts(url: str, cohort: str, silos: Sequence[str]) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many messages of work items, replies and notices have passed so far."""
    with asyncio.Runner() as runner:
        connection = runner.run(aio_pika.connect(url))

        async def declared() -> AbstractQueue:
            channel = await connection.channel()
            for exchange in (topology.WORK, topology.REPLY, topology.MAIL):
                await channel.declare_exchange(exchange.name, exchange.kind, durable=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(topology.WORK.name, "#")
            await queue.bind(topology.REPLY.name, "#")
            for silo in silos:
                await queue.bind(topology.MAIL.name, topology.silo_key(cohort, silo))
            return queue

        queue = runner.run(declared())

        async def count() -> int:
            channel = await connection.channel()
            found = await channel.declare_queue(queue.name, passive=True)
            return found.declaration_result.message_count or 0

        try:
            yield lambda: runner.run(count())
        finally:
            runner.run(connection.close())
