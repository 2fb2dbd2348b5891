"""A work item in a silo's hands, for as long as it takes: one handler, however often the broker delivers it.

RabbitMQ closes the channel of a consumer that keeps a delivery for longer than ``consumer_timeout``, 30 minutes by
default. From 3.12 a queue may have its own; before, whoever needs longer must give the delivery back: so the silo puts
a copy of the message into its own queue and acknowledges the one that it has. The copy comes back and takes its place.
Imports transport's own modules and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fedbroker.log import get_logger
from fedbroker.transport.amqp.message import Delivery

__all__ = ["COUNT", "MOST_DELIVERIES", "InFlightDelivery", "deliveries_of"]

_log = get_logger(__name__)

COPY_SECONDS: Final = 10.0
"""How long a copy may be on its way back when the work is done."""

MOST_DELIVERIES: Final = 3
"""How often a work item may come back unacknowledged; the queue's own limit counts from each copy anew."""

COUNT: Final = "fedbroker-deliveries"
"""The header in which a copy carries how often the item had come back before."""


def deliveries_of(delivery: Delivery) -> int:
    """How often a message has come back unacknowledged, with all of its copies."""
    counts = (delivery.headers.get(name) for name in ("x-delivery-count", COUNT))
    return sum(max(0, count) for count in counts if isinstance(count, int))


class InFlightDelivery:
    """One work item in hand.

    Args:
        delivery: the first one of it.
        renew: puts a copy into the queue; returns when the broker has it.
        seconds: after which a delivery is renewed.

    Attributes:
        owed: the work is done, and a copy of it is still to come.
    """

    awaiting_copy: bool

    def __init__(self, delivery: Delivery, renew: Callable[[Delivery], Awaitable[bool]], seconds: float) -> None:
        self._deliveries = [delivery]
        self._renew = renew
        self._seconds = seconds
        self._expected = False
        self._came = asyncio.Event()
        self.awaiting_copy = False

    def adopt(self, delivery: Delivery) -> None:
        """The same message came again: our copy, or what the broker delivers again after a lost connection."""
        self._deliveries.append(delivery)
        self._expected = False
        self._came.set()

    async def keep(self, working: asyncio.Future[None]) -> None:
        """Hold it until the work is done; then have the broker forget every delivery of it.

        Work that was cancelled was not done: the broker has it still.
        """
        try:
            while not working.done():
                await asyncio.wait([working], timeout=self._seconds)
                if not working.done() and not self._expected:
                    await self._renewed()
            if working.cancelled():
                return
            await self._returned()
        finally:
            working.cancel()
        for delivery in self._deliveries:
            await delivery.ack()

    async def _renewed(self) -> None:
        held, self._deliveries = self._deliveries, []
        self._expected = True
        self._came.clear()
        if not await self._renew(held[-1]):
            self._expected = False
            self._deliveries = [*held, *self._deliveries]
            return
        for delivery in held:
            await delivery.ack()
        _log.debug("delivery renewed", message_id=held[-1].message_id)

    async def _returned(self) -> None:
        """Wait for a copy that is on its way: else it would be taken for new work."""
        if self._expected:
            try:
                async with asyncio.timeout(COPY_SECONDS):
                    await self._came.wait()
            except TimeoutError:
                self.awaiting_copy = True  # behind a long queue
