"""Counts a cohort's messages at the broker, by queues that are bound like the regular ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

import aio_pika
from aio_pika.abc import AbstractQueue

from fedbroker.transport import topology


@contextlib.contextmanager
def message_counts(url: str, cohort: str, silos: Sequence[str]) -> Iterator[Callable[[], tuple[int, int]]]:
    """Yield a function for the end of a round; it returns the number of all messages, and the bytes of the replies.

    The messages are work items, replies and notices, and not chunks of blobs.
    """
    with asyncio.Runner() as runner:
        connection = runner.run(aio_pika.connect(url))

        async def declared() -> tuple[AbstractQueue, AbstractQueue]:
            channel = await connection.channel()
            for exchange in (topology.WORK, topology.REPLY, topology.MAIL):
                await channel.declare_exchange(exchange.name, exchange.kind, durable=True)
            sent, replies = await channel.declare_queue(exclusive=True), await channel.declare_queue(exclusive=True)
            await sent.bind(topology.WORK.name, "#")
            for silo in silos:
                await sent.bind(topology.MAIL.name, topology.silo_key(cohort, silo))
            await replies.bind(topology.REPLY.name, "#")
            return sent, replies

        sent, replies = runner.run(declared())

        async def count() -> tuple[int, int]:
            channel = await connection.channel()
            found = await channel.declare_queue(sent.name, passive=True)
            messages, size = found.declaration_result.message_count or 0, 0
            while (reply := await replies.get(no_ack=True, fail=False)) is not None:
                messages, size = messages + 1, size + len(reply.body)
            return messages, size

        try:
            yield lambda: runner.run(count())
        finally:
            runner.run(connection.close())
