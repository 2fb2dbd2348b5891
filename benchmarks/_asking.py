"""A coordinator of very many silos: a fedbroker session, or a plain aio-pika program. A child process, without TFF.

The only place where benchmarks know how a session runs a stage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from benchmarks._children import say, serve
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.ports import StageWork
from fedbroker.wire.codec import Buffer
from fedbroker.wire.messages import Compute, Struct

PROGRAM = (Struct(0, ()), Compute(0))
SECONDS = 120.0
REQUEST = bytes(300)
"""As long as a small work item, roughly."""


async def session(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Run a session with all silos and one client stage at each order; report its time and the outputs' size."""
    async with CoordinatorCohort(first["url"], first["cohort"]) as cohort:
        say(ready=True)
        async for _ in words:
            members = await cohort.gather(first["silos"], SECONDS)
            start = time.perf_counter()
            one = await cohort.session(members, {member.name: 1 for member in members}, SECONDS)
            programs = {member.name: PROGRAM for member in members}
            received = 0

            def accept(_silo: str, outputs: Sequence[Buffer]) -> Sequence[Buffer]:
                nonlocal received
                received += sum(map(len, outputs))
                return ()

            await one.run_stage(StageWork(stage=0, last=True, ops=programs, blobs={}, accept=accept))
            seconds = time.perf_counter() - start
            await one.close()
            say(seconds=seconds, bytes=received)


async def bare(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Send a confirmed message to every queue at each order, and await a reply to each."""
    waiting: dict[str, asyncio.Future[bytes]] = {}

    async def settle(message: AbstractIncomingMessage) -> None:
        waiting.pop(message.correlation_id or "").set_result(message.body)
        await message.ack()

    async with await aio_pika.connect(first["url"]) as connection:
        channel = await connection.channel()
        await channel.set_qos(64)
        callback = await channel.declare_queue(exclusive=True)
        await callback.consume(settle)
        mode = 2 if first["replicated"] else 1

        async def ask(name: str) -> bytes:
            waiting[name] = answer = asyncio.get_running_loop().create_future()
            message = aio_pika.Message(REQUEST, correlation_id=name, reply_to=callback.name, delivery_mode=mode)
            await channel.default_exchange.publish(message, name)
            return await answer

        say(ready=True)
        async for _ in words:
            start = time.perf_counter()
            answers = await asyncio.gather(*(ask(name) for name in first["names"]))
            say(seconds=time.perf_counter() - start, bytes=sum(len(answer) for answer in answers))


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    await (session if "cohort" in first else bare)(first, words)


if __name__ == "__main__":
    serve(main)
