"""Channels for single requests, because the broker closes the channel with each refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, TypeVar

import aiormq.abc
import aiormq.exceptions

from fedbroker.errors import BrokerLost
from fedbroker.transport.amqp.channel import Channel
from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import ConnectionLost, first_line, guarded

__all__ = ["Channels", "Question"]

T = TypeVar("T")

SECONDS: Final = 10.0
"""Seconds that the answer to one request may take: quorum queues are slow on a broker that is starting."""

_GONE: Final = (ConnectionError, aiormq.exceptions.AMQPConnectionError, aiormq.exceptions.ChannelInvalidStateError)

Question = Callable[[aiormq.abc.AbstractChannel], Awaitable[T]]


class Channels:
    """The channels of one connection."""

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._open: list[object] = []  # aio-pika keeps only weak references to them

    async def open(self, *, confirms: bool = False) -> aiormq.abc.AbstractChannel:
        """Open a channel; it is closed with its connection.

        Raises:
            BrokerLost: the connection was lost, or the broker did not answer.
        """
        channel = self._connected.amqp.channel(publisher_confirms=confirms)
        self._open.append(channel)
        with _lost():
            async with asyncio.timeout(SECONDS):
                await guarded(channel.initialize())
                return await channel.get_underlay_channel()

    async def ask(self, question: Question[T]) -> T:
        """Return the answer to one request, made on a channel of its own.

        Raises:
            ChannelClosed: the broker refused; aiormq's exception, of the subclass for the reason.
            BrokerLost: the connection was lost, or the broker did not answer.
        """
        async with self._passing() as channel:
            with _lost():
                async with asyncio.timeout(SECONDS):
                    return await guarded(question(channel))

    async def request(self, ask: Callable[[Channel], Awaitable[T]]) -> T:
        """Return the answer to one of the requests that the transport makes, too, on a channel of its own.

        Raises:
            NotFound, Locked, TopologyMismatch, BrokerRefused: the broker refused.
            BrokerLost: the connection was lost, or the broker did not answer.
        """
        with _lost():
            async with asyncio.timeout(SECONDS):
                channel = await Channel.open(self._connected)
                try:
                    return await ask(channel)
                finally:
                    with suppress(Exception):  # the broker closes it with a refusal
                        await channel.close()

    @asynccontextmanager
    async def _passing(self) -> AsyncGenerator[aiormq.abc.AbstractChannel]:
        channel = await self.open()
        try:
            yield channel
        finally:
            with suppress(Exception):
                async with asyncio.timeout(SECONDS):
                    await guarded(channel.close())


@contextmanager
def _lost() -> Generator[None]:
    """Raise ``BrokerLost`` for a lost connection or a timeout within the block."""
    try:
        yield
    except TimeoutError:
        raise BrokerLost("the broker did not answer in time", hint="check the broker's load") from None
    except aiormq.exceptions.ChannelClosed:
        raise
    except (ConnectionLost, *_GONE) as error:
        raise BrokerLost(f"the connection was lost ({first_line(error)})", hint="see the broker's log") from None
