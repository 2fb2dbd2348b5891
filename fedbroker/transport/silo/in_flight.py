"""A work item in progress at a silo: handled once, even if the broker delivers it several times.

RabbitMQ closes the channel of a consumer that keeps a delivery for longer than ``consumer_timeout``, 30 minutes by
default. From RabbitMQ 3.12 on, a queue can set its own limit. Older versions require that the delivery is returned in
time. So the silo publishes a copy of the message to its own queue and acknowledges the delivery that it holds. The copy
is delivered to the silo and takes its place.
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
"""Seconds to wait for an outstanding copy when the work is done."""

MOST_DELIVERIES: Final = 3
"""Maximum number of redeliveries of a work item; the queue's own limit restarts its count with each copy."""

COUNT: Final = "fedbroker-deliveries"
"""Header of a copy with the number of redeliveries before it."""


def deliveries_of(delivery: Delivery) -> int:
    """Return how often a message was redelivered, including its earlier copies."""
    counts = (delivery.headers.get(name) for name in ("x-delivery-count", COUNT))
    return sum(max(0, count) for count in counts if isinstance(count, int))


class InFlightDelivery:
    """One work item in progress.

    Args:
        delivery: its first delivery.
        renew: publishes a copy to the queue; returns whether the broker has it.
        seconds: time after which a delivery is renewed.

    Attributes:
        awaiting_copy: True if the work is done and a copy of the message is still to be delivered.
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
        """Add a delivery of the same message: our copy, or a redelivery after a lost connection."""
        self._deliveries.append(delivery)
        self._expected = False
        self._came.set()

    async def keep(self, working: asyncio.Future[None]) -> None:
        """Keep the work item until the work is done, then acknowledge all deliveries of it.

        Cancelled work is not acknowledged: the broker redelivers it.
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
        """Wait for an outstanding copy: otherwise it would count as new work."""
        if self._expected:
            try:
                async with asyncio.timeout(COPY_SECONDS):
                    await self._came.wait()
            except TimeoutError:
                self.awaiting_copy = True  # the copy is behind other messages in a long queue
