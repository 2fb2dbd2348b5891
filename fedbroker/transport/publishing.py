"""How messages get to the broker over lines that come and go: sent again, waited for, or let go, by what they are.

Imports transport's line, message and refusals, and the base.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost
from fedbroker.transport.line import Line
from fedbroker.transport.message import Outgoing
from fedbroker.transport.refusals import LineDown, Nacked, Unroutable

__all__ = ["FIRST_DELAY", "Publisher", "delays"]

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
NO_QUEUE: Final = 15.0
"""Seconds for which a message may have no queue: its reader makes a new one for one that the broker lost."""
NO_QUEUE_PAUSE: Final = 0.25
SILENT: Final = 5.0
"""Seconds without a word on a reply after which it is sent again."""
SLOWEST: Final = 100_000
"""Bytes a second of the slowest way to the broker that a reply is sent on once only."""
UNCONFIRMED: Final = 30.0
"""Seconds without a word on a transient message after which it is let go."""


def delays(spread: float = FIRST_DELAY) -> Iterator[float]:
    """Seconds to wait before each attempt to come back.

    The first is any moment of ``spread``: all who lost the same broker lose it in the same moment. Then it doubles,
    up to 10 s or ``spread``, whichever is longer, less up to a half at random.
    """
    yield random.uniform(0.0, spread)
    longest = spread
    while True:
        longest = max(spread, min(2 * longest, LONGEST_DELAY))
        yield longest * random.uniform(0.5, 1.0)


class Publisher(ABC):
    """Publishes on whichever line there is."""

    @abstractmethod
    async def ready(self, deadline: Deadline) -> Line:
        """A line that is set up; waits for a broker that is away.

        Raises:
            BrokerLost: there is none by the deadline, or there will be none any more.
        """

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the broker is, for errors."""

    @property
    @abstractmethod
    def _goes_on(self) -> bool:
        """Whether there is a line, or will be one again."""

    @property
    @abstractmethod
    def _up(self) -> bool:
        """Whether there is a line now."""

    async def publish(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish and await the broker's confirmation, over as many lines as it takes: at least once.

        A transient message that the broker refuses, or says nothing about for a while, is let go: one of several queues
        may be on a node that is down, the others have it, and its reader asks again for what it lacks.

        Raises:
            BrokerLost: not confirmed by the deadline.
            BrokerRefused: the broker does not take it, whoever asks: no permission, too large.
            Unroutable: it was mandatory, and no queue wants it.
        """
        pauses = delays()
        while True:
            attempt = deadline if message.persistent else Deadline.after(UNCONFIRMED).earlier(deadline)
            try:
                return await self._publish(message, attempt)
            except Nacked:
                if not message.persistent:
                    return
                await asyncio.sleep(min(next(pauses), deadline.left()))
            except BrokerLost:
                if deadline.passed() or not self._goes_on:
                    raise
                if self._up:
                    return

    async def _publish(self, message: Outgoing, deadline: Deadline) -> None:
        """The same; what the broker does not take raises ``Nacked``."""
        refused = False
        while True:
            line = await self.ready(deadline)
            try:
                async with asyncio.timeout(deadline.left()):
                    return await line.publish(message)
            except TimeoutError:
                raise BrokerLost(
                    f"the broker at {self.where} did not confirm a message in time",
                    hint="see whether it is short of memory or disk (`rabbitmqctl status`, alarms)",
                ) from None
            except LineDown as down:
                if down.refusal is not None and refused:
                    raise down.refusal from None
                refused = down.refusal is not None

    async def publish_routed(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish a mandatory message; a queue that is missing may be coming back, as after the loss of its node.

        Raises:
            BrokerLost, BrokerRefused: as ``publish`` does.
            Unroutable: no queue wanted it for ``NO_QUEUE`` seconds.
        """
        patience = Deadline.after(NO_QUEUE).earlier(deadline)
        while True:
            try:
                return await self.publish(message, deadline)
            except Unroutable:
                if patience.left() < NO_QUEUE_PAUSE:
                    raise
                await asyncio.sleep(NO_QUEUE_PAUSE)

    async def publish_reply(self, message: Outgoing, deadline: Deadline) -> None:
        """The same for a reply: its queue may also be on a node that is down, and another one be made in its place.

        Then the broker says no, or nothing, whether the other one has it or not: it is sent again, and may come twice.

        Raises:
            BrokerLost, BrokerRefused: as ``publish`` does.
            Unroutable, Nacked: the broker did not take it for ``NO_QUEUE`` seconds.
        """
        seconds = SILENT + len(message.body) / SLOWEST
        patience: Deadline | None = None
        while True:
            try:
                return await self._publish(message, Deadline.after(seconds).earlier(deadline))
            except BrokerLost:
                if deadline.passed() or not self._goes_on:
                    raise
            except (Unroutable, Nacked):
                patience = patience or Deadline.after(NO_QUEUE).earlier(deadline)
                if patience.left() < NO_QUEUE_PAUSE:
                    raise
                await asyncio.sleep(NO_QUEUE_PAUSE)
