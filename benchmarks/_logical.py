"""A load generator: many silos in one process over a few connections. A child process.

As ``silos`` each has its own work queue, announces itself, reads each work item, and replies with an output of 1 KiB
and its digest. As ``responders`` they are plain aio-pika consumers that reply with 1 KiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from benchmarks._children import say, serve
from fedbroker.transport import topology
from fedbroker.wire import decode, digest_of, encode
from fedbroker.wire.messages import Announce, Done, WorkItem

OUTPUT = os.urandom(1024)
PREFETCH = 16
HEARTBEAT = 60.0  # seconds: a silo that has had work announces itself no more
AGAIN = 5.0
"""Seconds after which silos without work announce themselves again: a coordinator may have started just then."""


async def silos(channel: AbstractChannel, cohort: str, names: Sequence[str]) -> None:
    """Join the cohort under all names, and reply to work; return when each has had work."""
    idle = set(names)
    for exchange in topology.EXCHANGES:
        await channel.declare_exchange(exchange.name, exchange.kind, durable=True)
    reply = await channel.get_exchange(topology.REPLY.name, ensure=False)
    lobby = await channel.get_exchange(topology.LOBBY.name, ensure=False)

    async def answer(message: AbstractIncomingMessage) -> None:
        item = decode(message.body).message
        assert isinstance(item, WorkItem)
        idle.discard(item.silo)
        outputs = ((digest_of(OUTPUT), len(OUTPUT)),)
        done = Done(item.session_id, item.stage, item.silo, "1", outputs, 0.0)
        body = encode(done, [OUTPUT])
        key = topology.reply_key(item.coordinator_id, item.session_id, item.stage, item.silo)
        sent = aio_pika.Message(body, correlation_id=message.correlation_id, delivery_mode=2)
        await reply.publish(sent, key)
        await message.ack()

    for name in names:
        work = topology.work_queue(cohort, name)
        queue = await channel.declare_queue(work.name, durable=True, arguments=dict(work.arguments))
        for binding in work.bindings:
            await queue.bind(binding.exchange.name, binding.key)
        await queue.consume(answer)
    while idle:
        for name in sorted(idle):
            hello = aio_pika.Message(encode(Announce(cohort, name, "1", HEARTBEAT)), expiration=HEARTBEAT)
            await lobby.publish(hello, topology.silo_key(cohort, name))
        await asyncio.sleep(AGAIN)


async def responders(channel: AbstractChannel, names: Sequence[str], replicated: bool) -> None:
    """Consume from a queue for each name; reply to each message with 1 KiB."""

    async def answer(message: AbstractIncomingMessage) -> None:
        sent = aio_pika.Message(OUTPUT, correlation_id=message.correlation_id, delivery_mode=2 if replicated else 1)
        await channel.default_exchange.publish(sent, message.reply_to or "")
        await message.ack()

    for name in names:
        kind = {"x-queue-type": "quorum"} if replicated else {}
        queue = await channel.declare_queue(name, durable=replicated, exclusive=not replicated, arguments=kind)
        await queue.consume(answer)


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Share the names among the connections; report when all are ready; reply until standard input ends."""
    names, connections = first["names"], first["connections"]
    async with contextlib.AsyncExitStack() as stack:
        starting: list[asyncio.Task[None]] = []
        for number in range(connections):
            connection: AbstractConnection = await stack.enter_async_context(await aio_pika.connect(first["url"]))
            channel = await connection.channel()
            await channel.set_qos(PREFETCH)
            share = names[number::connections]
            if "cohort" in first:
                starting.append(asyncio.create_task(silos(channel, first["cohort"], share)))
            else:
                starting.append(asyncio.create_task(responders(channel, share, first["replicated"])))
        if "cohort" not in first:
            await asyncio.gather(*starting)
        say(ready=True)
        async for _ in words:
            pass
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)


if __name__ == "__main__":
    serve(main)
