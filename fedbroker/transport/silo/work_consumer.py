"""The consumer of a silo's work queue: each work item is handled once, in its own task, even if it is redelivered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, Forged, WireError
from fedbroker.log import get_logger
from fedbroker.lru import LruMap
from fedbroker.transport import topology
from fedbroker.transport.amqp.exceptions import Unroutable
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.signed_messages import Signed, SiloEnvelopes
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import MAX_FORGERY_REPORTS, Digest, Message, WorkItem

__all__ = ["ForgeryReports", "WorkConsumer", "WorkCounters"]

_log = get_logger(__name__)

MAX_READERS: Final = 64
"""Maximum number of coordinators whose reports are tracked; the least recent are forgotten."""


@dataclass(slots=True)
class WorkCounters:
    """Counters of the deliveries from a silo's work queue: written on the event loop, read from any thread.

    Attributes:
        redelivered: deliveries that had been delivered before: their silo was killed or cut off.
        rejected: messages that were no work for this silo, or were redelivered too often; now dead letters.
        blobs_cached: blobs that a work item named, did not bring, and found in the store.
        blobs_sent: blobs that were attached to a work item or announced with it.
        blobs_lacking: blobs that a work item named, did not bring, and did not find in the store.
    """

    redelivered: int = 0
    rejected: int = 0
    blobs_cached: int = 0
    blobs_sent: int = 0
    blobs_lacking: int = 0


class ForgeryReports:
    """The latest reports, and the number of them that each coordinator has received.

    Each coordinator receives all reports with the silo's replies: one coordinator cannot consume those of another.
    """

    def __init__(self) -> None:
        self._latest: deque[str] = deque(maxlen=MAX_FORGERY_REPORTS)
        self._count = 0
        self._reported: LruMap[str, int] = LruMap(MAX_READERS)  # number of reports that each reader has received

    def add(self, where: str, reason: str) -> None:
        """Log a rejected message, and keep it for the next replies."""
        _log.error("message_forged", at=where, reason=reason)
        self._latest.append(f"{where}: {reason}")
        self._count += 1

    def take(self, reader: str = "") -> tuple[str, ...]:
        """Return the reports that a reader has not received yet; ``reader`` is the fingerprint of its key."""
        new = self._count - self._reported.pop(reader, 0)
        self._reported[reader] = self._count
        return tuple(self._latest)[-new:] if new else ()


COPY_TIMEOUT: Final = 30.0
"""Seconds for the broker to confirm a copy of a work item: without it, the delivery at hand is kept."""
MAX_AWAITING_COPY: Final = 4096
"""Maximum number of outstanding copies that are remembered; the oldest are forgotten."""
NEGLIGIBLE: Final = 0.1
"""Seconds: a shorter wait does not change the time that is left for a work item."""

COPY_WAIT: Final = 10.0
"""Seconds to wait for an outstanding copy when the work is done: in a short queue, it arrives at once."""

MAX_REDELIVERIES: Final = 3
"""Maximum number of redeliveries of a work item; the queue's own limit restarts its count with each copy."""

DELIVERIES_HEADER: Final = "fedbroker-deliveries"
"""Header of a copy with the number of redeliveries before it."""


def deliveries_of(delivery: Delivery) -> int:
    """Return how often a message was redelivered, including its earlier copies."""
    deliveries = 0
    for name in ("x-delivery-count", DELIVERIES_HEADER):
        count = delivery.headers.get(name)
        if isinstance(count, int):
            deliveries += max(0, count)
    return deliveries


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
        self._deliveries: list[Delivery] = [delivery]
        self._renew = renew
        self._seconds = seconds
        self._copy_expected = False
        self._copy_arrived = asyncio.Event()
        self.awaiting_copy = False

    def add(self, delivery: Delivery) -> None:
        """Add a delivery of the same message: our copy, or a redelivery after a lost connection."""
        self._deliveries.append(delivery)
        self._copy_expected = False
        self._copy_arrived.set()

    async def keep(self, working: asyncio.Future[None]) -> None:
        """Keep the work item until the work is done, then acknowledge all deliveries of it.

        Cancelled work is not acknowledged: the broker redelivers it.
        """
        try:
            while not working.done():
                await asyncio.wait([working], timeout=self._seconds)
                if not working.done() and not self._copy_expected:
                    await self._exchange_for_copy()
            if working.cancelled():
                return
            if self._copy_expected:
                await self._wait_for_copy()
        finally:
            working.cancel()
        for delivery in self._deliveries:
            await delivery.ack()

    async def _exchange_for_copy(self) -> None:
        earlier, self._deliveries = self._deliveries, []
        self._copy_expected = True
        self._copy_arrived.clear()
        if not await self._renew(earlier[-1]):
            self._copy_expected = False
            self._deliveries = [*earlier, *self._deliveries]
            return
        for delivery in earlier:
            await delivery.ack()
        _log.debug("delivery_renewed", message_id=earlier[-1].message_id)

    async def _wait_for_copy(self) -> None:
        """Wait for an outstanding copy: otherwise it would count as new work."""
        try:
            async with asyncio.timeout(COPY_WAIT):
                await self._copy_arrived.wait()
        except TimeoutError:
            self.awaiting_copy = True  # the copy is behind other messages in a long queue


class WorkConsumer:
    """Handles the deliveries from a silo's work queue until they are answered.

    Args:
        control: the connection to publish copies of work items on.
        silo: the silo's name.
        on_work: handles one work item; has replied when it returns.
        ready: returns when the silo can receive blobs.
        blobs: receives the attachments.
        limits: bounds on messages.
        envelopes: verifies work items.
        max_items: maximum number of work items handled at a time.
        renew_seconds: seconds after which the delivery of a work item in progress is renewed.

    Attributes:
        work_counters: counters of the deliveries so far.
        forgery_reports: forged messages in a coordinator's name.
    """

    work_counters: WorkCounters
    forgery_reports: ForgeryReports

    def __init__(
        self,
        control: ReconnectingConnection,
        silo: str,
        on_work: Callable[[WorkItem, Signed], Awaitable[None]],
        ready: Callable[[Deadline], Awaitable[None]],
        blobs: BlobStore,
        limits: Limits,
        envelopes: SiloEnvelopes,
        *,
        max_items: int,
        renew_seconds: float,
    ) -> None:
        self._control = control
        self._silo = silo
        self._on_work = on_work
        self._ready = ready
        self._blobs = blobs
        self._limits = limits
        self._envelopes = envelopes
        self._renew_seconds = renew_seconds
        self.work_counters = WorkCounters()
        self.forgery_reports = ForgeryReports()
        # The prefetch alone does not bound the handlers: renewing a delivery lets the broker deliver another message.
        self._room = asyncio.Semaphore(max_items)
        self._handlers: set[asyncio.Task[None]] = set()
        self._in_flight: dict[str, InFlightDelivery] = {}  # by message id
        # Message ids of finished work whose copy is still to be delivered.
        self._awaiting_copy: LruMap[str, None] = LruMap(MAX_AWAITING_COPY)

    async def take(self, delivery: Delivery) -> None:
        """Start to handle a delivery, or reject it if it is no work item for this silo: the broker dead-letters it."""
        if delivery.redelivered:
            self.work_counters.redelivered += 1
        in_flight = self._in_flight.get(delivery.message_id)
        if in_flight is not None:
            in_flight.add(delivery)
            return
        if delivery.message_id in self._awaiting_copy:
            await delivery.ack()
            return
        try:
            item, attachments, signed = self._read(delivery)
        except Forged as error:
            self.work_counters.rejected += 1
            self.forgery_reports.add("work", error.what)
            await delivery.reject()
            return
        except WireError as error:
            self.work_counters.rejected += 1
            _log.error("work_rejected", reason=error.what, message_id=delivery.message_id)
            await delivery.reject()
            return
        deadline = Deadline.after(item.timeout)

        async def renew(latest: Delivery) -> bool:
            return await self._publish_copy(latest, deadline)

        # Registered before the handler's task runs: one read of the socket may contain the same message twice.
        in_flight = self._in_flight[delivery.message_id] = InFlightDelivery(delivery, renew, self._renew_seconds)
        # A separate task: the caller's task is cancelled when the connection ends, a handler must go on.
        handler = asyncio.create_task(self._handle(item, signed, attachments, delivery, in_flight, deadline))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def close(self) -> None:
        """Cancel all handlers; the broker redelivers their work."""
        for handler in self._handlers:
            handler.cancel()
        if self._handlers:
            await asyncio.gather(*self._handlers, return_exceptions=True)
        self._in_flight.clear()  # a handler that was cancelled before its first step has not removed its entry

    def _read(self, delivery: Delivery) -> tuple[WorkItem, Sequence[memoryview], Signed]:
        item, attachments, signed = self._envelopes.work(delivery, self._decoded)
        if item.silo != self._silo or not delivery.message_id:
            raise self._not_work(item)
        if not delivery.can_be_copied:
            raise WireError("its routing key or ids are too long for a copy of it")
        before = deliveries_of(delivery)
        if before > MAX_REDELIVERIES:
            raise WireError(f"it was redelivered {before} times without a reply")
        if before:  # blobs in flight with an earlier delivery went to the process that held it
            item = msgspec.structs.replace(item, incoming={})
        return item, attachments, signed

    def _decoded(self, body: Buffer) -> tuple[WorkItem, Sequence[memoryview]]:
        item, attachments = decode(body, self._limits)
        if not isinstance(item, WorkItem):
            raise self._not_work(item)
        return item, attachments

    def _not_work(self, message: Message) -> WireError:
        return WireError(f"a {type(message).__name__} that is no work item for {self._silo!r}")

    async def _handle(
        self,
        item: WorkItem,
        signed: Signed,
        attachments: Sequence[memoryview],
        delivery: Delivery,
        in_flight: InFlightDelivery,
        deadline: Deadline,
    ) -> None:
        try:
            sent = [*map(self._blobs.put, attachments), *item.incoming]
            self._count_blobs(item, sent)
            forged = partial(self.forgery_reports.add, "blob")
            with self._blobs.pinned(sent), self._envelopes.opening(item, signed, self._blobs, deadline, forged):
                await in_flight.keep(asyncio.ensure_future(self._work_on(item, signed, deadline, delivery)))
        finally:
            del self._in_flight[delivery.message_id]
            if in_flight.awaiting_copy:
                self._awaiting_copy[delivery.message_id] = None

    def _count_blobs(self, item: WorkItem, sent: Collection[Digest]) -> None:
        for digest in item.blobs:
            if digest in sent:
                self.work_counters.blobs_sent += 1
            elif digest in self._blobs:
                self.work_counters.blobs_cached += 1
            else:
                self.work_counters.blobs_lacking += 1

    async def _work_on(self, item: WorkItem, signed: Signed, deadline: Deadline, delivery: Delivery) -> None:
        try:
            await self._ready(deadline)
            async with self._room:
                left = deadline.left()
                if left < item.timeout - NEGLIGIBLE:
                    item = msgspec.structs.replace(item, timeout=left)
                with tracing.continued(delivery.headers):
                    await self._on_work(item, signed)
        except Exception:
            _log.exception("work_handler_failed", session=item.session_id, stage=item.stage)

    async def _publish_copy(self, delivery: Delivery, deadline: Deadline) -> bool:
        """Publish a copy of a work item in progress to the silo's own queue; return whether the broker has it."""
        copy = Outgoing(
            topology.WORK,
            delivery.key,
            delivery.body,
            mandatory=True,
            correlation_id=delivery.correlation_id,
            message_id=delivery.message_id,
            expiration=deadline.left(),
            headers={DELIVERIES_HEADER: deliveries_of(delivery), **tracing.carried(delivery.headers)},
        )
        try:
            await self._control.publish(copy, Deadline.after(COPY_TIMEOUT))
        except (BrokerError, Unroutable) as error:
            _log.warning("delivery_not_renewed", message_id=delivery.message_id, reason=str(error))
            return False
        return True
