"""The silo's transport: announces the silo, receives work items, and sends replies and outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import msgspec

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, ConfigError, Forged, NameTaken, WireError
from fedbroker.log import get_logger
from fedbroker.transport import topology
from fedbroker.transport.amqp.channel import Consumer
from fedbroker.transport.amqp.connection import (
    LEADERLESS_SECONDS,
    Connection,
    TrafficCounters,
    declare_with_failover,
    delete_leaderless,
)
from fedbroker.transport.amqp.exceptions import ConnectionLost, Locked, Nacked, Unroutable
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.reconnecting import ROUTE_TIMEOUT, ReconnectingConnection, Restoration
from fedbroker.transport.amqp.url import parse
from fedbroker.transport.blobs.bulk import PREFETCH, BlobTransfer, receiver
from fedbroker.transport.blobs.store import CAPACITY, BlobStore
from fedbroker.transport.signed_messages import UNSIGNED, Signed, SiloEnvelopes
from fedbroker.transport.silo.announcer import Announcer
from fedbroker.transport.silo.notices import DeferredResults, NoticeQueue
from fedbroker.transport.silo.work_consumer import WorkConsumer, WorkCounters
from fedbroker.trust.keyring import Keys
from fedbroker.trust.replays import Accepted as AcceptedMessage
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.codec import decode, encode
from fedbroker.wire.coding import Compression
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import (
    Accepted,
    Announce,
    Digest,
    Done,
    EndSession,
    Failed,
    Fetch,
    MaskNotice,
    MaskReply,
    Need,
    Rejected,
    WorkItem,
    check_name,
)

__all__ = ["SiloTransport"]

_log = get_logger(__name__)

WORK_PREFETCH: Final = 16
"""Default maximum number of work items in progress: a silo rarely serves more sessions at a time."""
RESTORE_SECONDS: Final = 30.0
"""Maximum seconds until bindings are restored: a thousand silos make 300 small requests a second."""
SPREAD: Final = 3.0
"""Seconds over which silos spread their reconnections, because all of them lose a broker at the same moment."""


class SiloTransport:
    """One silo's connection to its cohort; reconnects after a loss of the broker.

    Args:
        url: ``amqp://`` or ``amqps://``.
        cohort: the cohort's name.
        silo: this silo's name, unique in the cohort.
        announcement: returns the silo's present announcement; called for each one.
        on_work: handles one work item, in a separate task; receives the item and its signature, and has replied when it
            returns. May be called again with an item that it is working on or has answered: the broker redelivers
            unacknowledged messages.
        on_session_end: called when a coordinator ends a session, with the fingerprint of the notice's signer (on the
            event loop, must not block).
        on_mask_notice: called with a coordinator's notice about a masked sum, its content and its signer's fingerprint
            (on the event loop, must not block).
        limits: bounds on messages and blobs.
        compression: which blobs are sent compressed; compressed blobs are always accepted.
        keys: this silo's key and its coordinators' keys; None: messages are not signed.
        heartbeat: seconds between announcements, up to 60.
        store_bytes: bytes of received blobs to keep.
        store_seconds: seconds after its last use for which to keep a blob; None: no limit.
        prefetch: maximum number of work items in progress.
        renew_seconds: seconds after which the delivery of a work item in progress is renewed.
        spread: seconds within which to reconnect, at random, after a loss of the broker.
        enrolled: True if the silo's queues were created at enrolment and it may not declare any.

    Raises:
        ConfigError: a bad URL, name, heartbeat or compression.

    Attributes:
        blobs: the received blobs, by digest.
    """

    blobs: BlobStore

    def __init__(
        self,
        url: str,
        cohort: str,
        silo: str,
        *,
        announcement: Callable[[], Announce],
        on_work: Callable[[WorkItem, Signed], Awaitable[None]],
        on_session_end: Callable[[EndSession, str], None],
        on_mask_notice: Callable[[MaskNotice, bytes, str], None] = lambda _notice, _content, _by: None,
        limits: Limits = DEFAULT_LIMITS,
        compression: Compression = "off",
        keys: Keys | None = None,
        heartbeat: float = 5.0,
        store_bytes: int = CAPACITY,
        store_seconds: float | None = None,
        prefetch: int = WORK_PREFETCH,
        renew_seconds: float = 600.0,
        spread: float = SPREAD,
        enrolled: bool = False,
    ) -> None:
        if not 0.0 < heartbeat <= topology.LONGEST_HEARTBEAT:
            raise ConfigError(f"a heartbeat of {heartbeat} s", hint="use more than 0 and at most 60 s")
        address = parse(url)
        self._cohort = check_name("cohort", cohort)
        self._silo = check_name("silo", silo)
        self._on_session_end = on_session_end
        self._on_mask_notice = on_mask_notice
        self._limits = limits
        self.blobs = BlobStore(store_bytes, limits=limits, linger=store_seconds)
        self._prefetch = prefetch
        self._control = ReconnectingConnection(
            address,
            f"fedbroker silo {cohort}.{silo} control",
            self._set_up_control,
            spread=spread,
            restoration=None if enrolled else Restoration(self._restore_control, RESTORE_SECONDS),
        )
        self._bulk = ReconnectingConnection(
            address,
            f"fedbroker silo {cohort}.{silo} bulk",
            self._set_up_bulk,
            spread=spread,
            restoration=None if enrolled else Restoration(self._restore_bulk, RESTORE_SECONDS),
        )
        self._transfer = BlobTransfer(self._bulk, topology.RESULTS, limits, compression, route_timeout=ROUTE_TIMEOUT)
        self._deferred = DeferredResults()
        self._envelopes = SiloEnvelopes(cohort, silo, keys)
        self._announcer = Announcer(
            self._control,
            self._bulk,
            heartbeat,
            announcement,
            envelope=self._envelopes.announcement,
            signers=self._envelopes.signers,
            sealed_only=self._envelopes.requires_sealing,
        )
        self._work_consumer = WorkConsumer(
            self._control,
            silo,
            on_work,
            self._ready,
            self.blobs,
            limits,
            self._envelopes,
            max_items=prefetch,
            renew_seconds=renew_seconds,
        )
        self._notices = NoticeQueue(cohort, silo, self._on_notice, enrolled=enrolled)
        self._consumer: Consumer | None = None
        self._discovery: topology.Queue | None = None  # under the name that it had the last time
        self._opened = asyncio.Event()
        self._draining = False
        self._enrolled = enrolled

    async def open(self, deadline: Deadline) -> None:
        """Connect, take the name, declare, consume, announce.

        Raises:
            NameTaken: another process holds the name (after 2 s: the lock of a killed process may linger).
            BrokerUnreachable: no host answers with AMQP, or not in time.
            BrokerRefused: wrong user, password, vhost or permission.
            TopologyMismatch: a queue or exchange exists with other properties.
            BrokerLost: the connection was lost during the call.
        """
        try:
            await self._control.open(deadline)
            await self._bulk.open(deadline)
        except BaseException:
            await self._work_consumer.close()
            await self._bulk.close()
            await self._control.close()
            raise
        self._opened.set()
        self._announcer.start()

    @property
    def traffic(self) -> dict[str, TrafficCounters]:
        """Traffic of the connections, by name: ``control`` and ``bulk``."""
        return {"control": self._control.traffic, "bulk": self._bulk.traffic}

    @property
    def work_counters(self) -> WorkCounters:
        """Counters of the deliveries from the work queue so far."""
        return self._work_consumer.work_counters

    def restore(self, entries: Iterable[AcceptedMessage]) -> None:
        """Restore the record of signed work that an earlier process accepted, so that a replay is rejected."""
        self._envelopes.restore(entries)

    async def reply(
        self,
        item: WorkItem,
        reply: Done | Failed | Need,
        outputs: Mapping[Digest, Buffer],
        deadline: Deadline,
        signed: Signed = UNSIGNED,
    ) -> None:
        """Reply to a work item, to the coordinator that signed it; return when the broker has confirmed everything.

        Waits while the broker is away. Small outputs are attached to the reply. Larger ones are sent at the same time
        on the bulk connection or, if they exceed the item's ``defer_above``, after the reply, when the coordinator asks
        for them. A reply whose queue stays missing is dropped: its coordinator is gone.

        Raises:
            BrokerLost: the broker did not confirm it, or the coordinator did not ask for the outputs, by the deadline.
            BrokerRefused: no permission, or the broker's limits are below ours.
            WireError: the reply or an output exceeds the limits.
        """
        inline, large = self._split_outputs(outputs)
        bulk: dict[Digest, Buffer] = {}
        names: dict[Digest, Digest] = {}
        if large:
            sealed = await self._envelopes.outputs(item, signed, large)
            bulk = dict(sealed.values())
            names = {digest: name for digest, (name, _) in sealed.items() if name != digest}
        if isinstance(reply, Done):
            reply = msgspec.structs.replace(
                reply, sealed=names, forgery_reports=self._work_consumer.forgery_reports.take(signed.by)
            )
        if 0 < item.defer_above < sum(len(data) for data in bulk.values()) and isinstance(reply, Done):
            with self._deferred.until_fetched(reply, signed.by) as fetched:
                announced = msgspec.structs.replace(reply, deferred=True)
                if await self._publish_reply(item, signed, announced, inline, deadline) and await fetched(deadline):
                    await self._send_outputs(item, bulk, deadline)
        elif bulk:
            await self._send_with_reply(item, signed, reply, inline, bulk, deadline)
        else:
            await self._publish_reply(item, signed, reply, inline, deadline)

    async def mask_reply(
        self, item: WorkItem, reply: MaskReply, content: Buffer, deadline: Deadline, signed: Signed = UNSIGNED
    ) -> None:
        """Send a step of a masked sum to the coordinator that signed the work; return when the broker has confirmed it.

        Waits while the broker is away. A step whose queue stays missing is dropped: its coordinator is gone.

        Raises:
            BrokerLost: the broker did not confirm it by the deadline.
            BrokerRefused: no permission, or the broker's limits are below ours.
            WireError: the step exceeds the limits.
        """
        await self._publish_reply(item, signed, reply, [content], deadline)

    async def _send_with_reply(
        self,
        item: WorkItem,
        signed: Signed,
        reply: Done | Failed | Need,
        inline: list[Buffer],
        outputs: Mapping[Digest, Buffer],
        deadline: Deadline,
    ) -> None:
        """Send outputs and the reply at the same time, which saves a round trip."""
        for data in outputs.values():
            self._transfer.check(data)  # an output that is too large must raise before the reply is published
        sending = asyncio.create_task(self._send_outputs(item, outputs, deadline))
        try:
            if await self._publish_reply(item, signed, reply, inline, deadline):
                await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send_outputs(self, item: WorkItem, outputs: Mapping[Digest, Buffer], deadline: Deadline) -> None:
        """Send outputs; stop if their queue stays missing, because the coordinator is gone."""
        try:
            for digest, data in outputs.items():
                await self._transfer.send(topology.results_key(item.coordinator_id, self._silo), digest, data, deadline)
        except Unroutable:
            _log.info("reply_unwanted", session=item.session_id, stage=item.stage)

    async def _publish_reply(
        self,
        item: WorkItem,
        signed: Signed,
        reply: Done | Failed | Need | MaskReply,
        inline: list[Buffer],
        deadline: Deadline,
    ) -> bool:
        """Publish a reply; return False if its queue is missing, because the coordinator is gone."""
        body = self._envelopes.reply(item, signed, encode(reply, inline, self._limits))
        message = Outgoing(
            topology.REPLY,
            topology.reply_key(item.coordinator_id, item.session_id, item.stage, self._silo),
            body,
            mandatory=True,
            correlation_id=f"{item.session_id}.{item.stage}.{self._silo}",
        )
        try:
            await self._control.publish_reply(message, deadline)
        except (Nacked, Unroutable):
            _log.info("reply_unwanted", session=item.session_id, stage=item.stage)
            return False
        return True

    @property
    def is_connected(self) -> bool:
        """True while both connections to the broker are up."""
        return self._control.is_up and self._bulk.is_up

    async def pause(self) -> bool:
        """Announce that the silo leaves, and stay away until :meth:`resume`; it still receives work.

        Before :meth:`open`, the silo then joins without an announcement.

        Returns:
            False if the broker did not take the message in time: the cohort then misses announcements.
        """
        return await self._announcer.pause()

    async def resume(self) -> None:
        """Announce the silo again."""
        await self._announcer.resume()

    async def leave(self) -> None:
        """Announce that the silo leaves, so that no new session uses it; it still receives work."""
        await self._announcer.stop()

    async def drain(self) -> None:
        """Stop consuming work and announce that the silo leaves; running handlers go on and may reply."""
        self._draining = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                async with asyncio.timeout(2.0):
                    await consumer.cancel()
            except (ConnectionLost, TimeoutError) as error:  # the consumer ended with its connection
                _log.debug("consumer_not_cancelled", reason=str(error))
        await self._announcer.stop()

    async def close(self) -> None:
        """Leave the cohort, cancel running handlers (their work returns to the queue) and free the name.

        Takes a bounded time and does not raise if the broker is gone.
        """
        await self.drain()
        await self._work_consumer.close()
        await self._bulk.close(self._delete_blobs_queue)
        await self._control.close()
        self.blobs.close()

    async def _set_up_control(self, connection: Connection) -> None:
        """Set up a new connection. The name is taken first: it is the lock on the silo's queues."""
        work = topology.work_queue(self._cohort, self._silo)
        try:
            await self._notices.consume(connection)
        except Locked:
            raise NameTaken(self._cohort, self._silo) from None
        if self._enrolled:
            await connection.expect(work)
        else:
            await self._declare(connection, work)
        if not self._draining:
            self._consumer = await self._consume_work(connection, work)
        self._announcer.cue()

    async def _declare(self, connection: Connection, work: topology.Queue) -> None:
        self._discovery = await declare_with_failover(connection, topology.lobby_queue(self._cohort), self._discovery)
        await connection.declare((), (topology.archive(self._cohort), work))

    async def _consume_work(self, connection: Connection, work: topology.Queue) -> Consumer:
        """Consume the work queue; if it has no leader and we may declare queues, recreate it.

        Its messages are lost either way; the coordinators notice by their deadlines.
        """
        try:
            async with asyncio.timeout(LEADERLESS_SECONDS):
                return await connection.consume(work, self._work_consumer.take, prefetch=self._prefetch)
        except TimeoutError:
            if self._enrolled:
                raise ConnectionLost(f"queue {work.name!r} has no leader") from None
            raise await delete_leaderless(connection, work) from None

    async def _ready(self, deadline: Deadline) -> None:
        """Wait until the queue of blobs exists: the first work may arrive before it, as when a name is taken over."""
        try:
            async with asyncio.timeout(deadline.left()):
                await self._opened.wait()
            await self._bulk.ready(deadline)
        except (BrokerLost, TimeoutError) as error:
            _log.debug("blob_queue_unavailable", reason=str(error))

    async def _set_up_bulk(self, connection: Connection) -> None:
        queue = topology.blobs_queue(self._cohort, self._silo)
        try:
            if self._enrolled:
                await connection.expect(queue)
                await connection.purge(queue)  # chunks that arrived while it had no consumer are useless
            else:
                await connection.declare((topology.BLOBS, topology.RESULTS), (queue,))
            on_chunk = receiver(self.blobs, self._limits, refused=self._on_bad_chunk)
            await connection.consume(queue, on_chunk, prefetch=PREFETCH, exclusive=True)
        except Locked:
            raise NameTaken(self._cohort, self._silo) from None
        self.blobs.connection_lost()  # chunks sent before the queue was set up are lost

    def _on_bad_chunk(self, _key: str, reason: str) -> None:
        if self._envelopes.is_signed:
            self._work_consumer.forgery_reports.add("bulk", reason)

    async def _restore_control(self, connection: Connection) -> list[str]:
        """Restore what the silo receives by; coordinators restore everything else."""
        queues = topology.work_queue(self._cohort, self._silo), topology.mailbox(self._cohort, self._silo)
        return await connection.restore((topology.WORK, topology.MAIL), queues)

    async def _restore_bulk(self, connection: Connection) -> list[str]:
        return await connection.restore((topology.BLOBS,), (topology.blobs_queue(self._cohort, self._silo),))

    async def _delete_blobs_queue(self, connection: Connection) -> None:
        if not self._enrolled:
            await connection.delete(topology.blobs_queue(self._cohort, self._silo))

    async def _on_notice(self, delivery: Delivery) -> None:
        """Handle an announcement of ours that the broker returned, or a coordinator's notice."""
        if delivery.death is not None:
            self._announcer.on_returned(delivery.message_id, delivery.death)
            await delivery.ack()
            return
        try:
            body, by = self._envelopes.notice(delivery.body)
            message, attachments = decode(body, self._limits)
        except Forged as error:
            self._work_consumer.forgery_reports.add("mailbox", error.what)
        except WireError as error:
            _log.warning("message_dropped", at="mailbox", reason=error.what)
        else:
            if isinstance(message, EndSession):
                self._on_session_end(message, by)
            elif isinstance(message, Fetch):
                self._deferred.fetch(message, by)
            elif isinstance(message, MaskNotice):
                self._on_mask_notice(message, bytes(attachments[0]), by)
            elif isinstance(message, Accepted | Rejected):
                self._announcer.on_decision(message, by)
        await delivery.ack()

    def _split_outputs(self, outputs: Mapping[Digest, Buffer]) -> tuple[list[Buffer], dict[Digest, Buffer]]:
        """Split outputs into those attached to the reply and those sent on the bulk connection."""
        inline: list[Buffer] = []
        bulk: dict[Digest, Buffer] = {}
        room = self._limits.inline_total
        for digest, data in outputs.items():
            size = memoryview(data).nbytes
            if size <= min(self._limits.inline_blob, room) and len(inline) < self._limits.max_attachments:
                inline.append(data)
                room -= size
            else:
                bulk[digest] = data
        return inline, bulk
