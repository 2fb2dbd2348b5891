"""Standby for a silo's name: a second process of one silo waits until the first has gone.

The lock on the name is the silo's mailbox: a queue that is exclusive to a connection or, if enrolment created it, a
queue that has a consumer.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import aiormq.exceptions

from fedbroker.errors import BrokerError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.dial import Connected, connect, guarded
from fedbroker.transport.amqp.reconnecting import delays
from fedbroker.transport.amqp.url import parse
from fedbroker.transport.topology import mailbox

__all__ = ["until_free"]

_log = get_logger(__name__)

PAUSE: Final = 1.0
"""Seconds between two checks, each of which costs the broker one passive declaration."""
ANSWER: Final = 10.0
"""Seconds for the broker to answer."""


async def until_free(url: str, cohort: str, silo: str) -> None:
    """Return when the name is free. Another process on standby may still take it first.

    The wait is unbounded, also for a broker that is away.

    Raises:
        ConfigError: a bad URL.
    """
    address = parse(url)
    pauses = delays()
    while True:
        try:
            async with asyncio.timeout(ANSWER):
                connected = await connect(address, f"fedbroker silo {cohort}.{silo} standby")
            try:
                while await _taken(connected, mailbox(cohort, silo).name):
                    pauses = delays()
                    await asyncio.sleep(PAUSE * random.uniform(0.5, 1.0))
                return
            finally:
                await connected.close()
        except (BrokerError, ConnectionError, TimeoutError) as error:
            _log.warning("silo name not looked up", reason=str(error) or "no answer in time")
            await asyncio.sleep(next(pauses))


async def _taken(connected: Connected, queue: str) -> bool:
    """Return whether a queue is in use, on a new channel: the broker closes it if the queue is missing or locked."""
    async with asyncio.timeout(ANSWER):
        channel = connected.amqp.channel(publisher_confirms=False)
        await guarded(channel.initialize())
        try:
            there = await guarded((await channel.get_underlay_channel()).queue_declare(queue, passive=True))
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        except aiormq.exceptions.ChannelLockedResource:
            return True
        except aiormq.exceptions.AMQPError as error:
            raise ConnectionError(str(error)) from None
        await guarded(channel.close())
        return bool(there.consumer_count)
