"""Publishes a coordinator's events for boards, without any effect on its rounds.

Events have a connection of their own: during an alarm the broker stops a connection that publishes, and silos' replies
must still arrive. Publishing is not awaited, not confirmed and not repeated. Several events share a message, because a
message takes ten times as long as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, WireError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.channel import Channel
from fedbroker.transport.amqp.delays import refusal_delays
from fedbroker.transport.amqp.dial import Connected, connect
from fedbroker.transport.amqp.exceptions import ConnectionLost, NotFound, first_line
from fedbroker.transport.amqp.message import Outgoing
from fedbroker.transport.amqp.url import parse
from fedbroker.transport.topology import EVENTS, events_key
from fedbroker.wire.events import MAX_EVENTS, CohortEvent, encode_events

__all__ = ["EventPublisher"]

_log = get_logger(__name__)

MAX_QUEUED: Final = 10_000
"""Events that wait for the broker, which are those of a round with some thousand silos."""
GATHER_SECONDS: Final = 0.05
"""Seconds in which events are gathered: a page shows what happened a moment ago."""
PUBLISH_SECONDS: Final = 5.0
"""Seconds for one message: the broker may take none during an alarm."""
DIAL_SECONDS: Final = 30.0
"""Seconds for one attempt to connect."""
STABLE_SECONDS: Final = 5.0
"""Seconds after which a connection counts as working: the broker closes one that may not publish within some."""
FAREWELL_SECONDS: Final = 1.0
"""Seconds that closing waits for events which were not sent yet."""


class EventPublisher:
    """Publishes events in the background, from :meth:`start` to :meth:`close`.

    Args:
        url: of the broker.
        cohort: the cohort's name.

    Attributes:
        dropped: number of events that were not published.
    """

    def __init__(self, url: str, cohort: str) -> None:
        self._address = parse(url)
        self._cohort = cohort
        self._coordinator_id = ""
        self._queue: deque[tuple[int, float, Mapping[str, Any]]] = deque()
        self._sequence = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._reason = ""
        self.dropped = 0

    def put(self, event: Mapping[str, Any]) -> None:
        """Publish an event soon: the fields of :class:`CohortEvent` that it sets. Never blocks, never raises.

        The oldest event is dropped if too many wait.
        """
        self._queue.append((self._sequence, time.time(), event))
        self._sequence += 1
        if len(self._queue) > MAX_QUEUED:
            self._queue.popleft()
            self.dropped += 1
        self._drained.clear()
        self._filled.set()

    def start(self, coordinator_id: str) -> None:
        """Start to publish, events from before included."""
        if self._running is None:
            self._coordinator_id = coordinator_id
            self._running = asyncio.create_task(self._run(), name=f"events of {coordinator_id}")

    async def close(self) -> None:
        """Publish what waits, for at most a second, and disconnect. Never raises."""
        running, self._running = self._running, None
        if running is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                while self._queue and not self._reason:
                    await self._drained.wait()
        running.cancel()
        await asyncio.wait([running])
        self.dropped += len(self._queue)
        self._queue.clear()

    async def _run(self) -> None:
        """Connect at the first event, and again after each failure, until cancelled."""
        pauses = refusal_delays()
        while True:
            await self._filled.wait()
            began = time.monotonic()
            try:
                await self._publish_all()
            except Exception as error:  # of any kind: rounds must not notice
                reason = error.what if isinstance(error, BrokerError) else first_line(error)
                if reason != self._reason:
                    _log.info("events_not_published", reason=reason)
                self._reason = reason
                self._drained.set()  # closing does not wait for a broker that takes none
            if time.monotonic() - began > STABLE_SECONDS:
                pauses = refusal_delays()
            await asyncio.sleep(next(pauses))

    async def _publish_all(self) -> None:
        """Publish events on a new connection until it fails."""
        name = f"fedbroker coordinator {self._cohort} {self._coordinator_id} events"
        connected = await connect(self._address, name, Deadline.after(DIAL_SECONDS))
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                channel = await _ready_channel(connected)
            self._reason = ""
            while not channel.closing.done():
                if connected.alarm.reason:
                    raise ConnectionLost(f"the broker is {connected.alarm.reason}")
                if self._queue:
                    await self._publish(channel)
                else:
                    self._drained.set()
                    self._filled.clear()
                    await self._next(channel)
            raise ConnectionLost(_closed(channel))
        finally:
            await connected.close()

    async def _next(self, channel: Channel) -> None:
        """Wait for events, or for the end of the channel."""
        filled = asyncio.create_task(self._filled.wait())
        try:
            await asyncio.wait((filled, channel.closing), return_when=asyncio.FIRST_COMPLETED)
            if self._running is not None:
                await asyncio.sleep(GATHER_SECONDS)
        finally:
            filled.cancel()

    async def _publish(self, channel: Channel) -> None:
        """Publish the first events of the queue as one message."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_EVENTS))]
        try:
            body = encode_events([self._event(*queued) for queued in batch])
        except WireError as error:
            self.dropped += len(batch)
            _log.info("events_not_published", reason=error.what)
            return
        key = events_key(self._cohort, self._coordinator_id)
        async with asyncio.timeout(PUBLISH_SECONDS):
            await channel.publish(Outgoing(EVENTS, key, body, persistent=False))

    def _event(self, sequence: int, at: float, fields: Mapping[str, Any]) -> CohortEvent:
        return CohortEvent(cohort=self._cohort, coordinator=self._coordinator_id, sequence=sequence, time=at, **fields)


async def _ready_channel(connected: Connected) -> Channel:
    """Return a channel without confirmations; the exchange exists, or was declared.

    A coordinator of an older enrolment may neither declare it nor publish to it.
    """
    try:
        channel = await Channel.open(connected)
        await channel.check_exchange(EVENTS)
    except NotFound:
        channel = await Channel.open(connected)
        await channel.declare_exchange(EVENTS)
    return channel


def _closed(channel: Channel) -> str:
    return first_line(None if channel.closing.cancelled() else channel.closing.exception())
