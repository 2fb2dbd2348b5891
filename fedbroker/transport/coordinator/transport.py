"""The coordinator's transport: sends work items, receives replies and dead letters, and transfers blobs both ways."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from functools import partial
from typing import Final

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, BrokerLost, FedbrokerError, Forged, WireError
from fedbroker.log import get_logger
from fedbroker.transport import topology
from fedbroker.transport.amqp.connection import (
    Connection,
    TrafficCounters,
    check_leader,
    declare_with_failover,
)
from fedbroker.transport.amqp.exceptions import Unroutable
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.reconnecting import ROUTE_TIMEOUT, ReconnectingConnection, Restoration
from fedbroker.transport.amqp.url import parse
from fedbroker.transport.blobs.bulk import PREFETCH, BlobTransfer, receiver
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.coordinator.discovery import SiloDiscovery
from fedbroker.transport.coordinator.requests import (
    Dead,
    MaskHandler,
    MisbehaviourCounter,
    PendingRequest,
    Reason,
    ReplyRouter,
    Response,
    correlation,
    dead_letter_of,
)
from fedbroker.transport.signed_messages import CoordinatorEnvelopes
from fedbroker.trust.keyring import Keys
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
    Leave,
    MaskNotice,
    MaskReply,
    Need,
    Rejected,
    WorkItem,
    check_name,
)

__all__ = ["CoordinatorTransport"]

_log = get_logger(__name__)

REPLY_PREFETCH: Final = 64
"""Replies in flight from the broker: enough to hide a round trip; more would only move the queue into our memory."""
GRACE: Final = 0.25
"""Seconds after the deadline in which a reply or dead letter still counts: an item expires just before its deadline."""
EXPIRY_MARGIN: Final = 0.1
"""Share of its time, up to ``GRACE`` seconds, by which a work item expires at the broker before its deadline."""
NOTICE_TIMEOUT: Final = 5.0
"""Seconds to publish a notice: it is sent at best effort, and must not hold up the end of a session."""
TROUBLE_TIMEOUT: Final = 3.0
"""Seconds for the broker to confirm the messages that check it: a live broker needs a fraction of one."""
RESTORE_SECONDS: Final = 5.0
"""Maximum seconds until bindings are restored: shorter than a silo waits for a queue of ours to be bound again."""
RESULTS_LINGER: Final = 15.0
"""Seconds for which an output is kept after its last use: a duplicate of the reply may still name it."""


class CoordinatorTransport:
    """One coordinator's connection to one cohort; reconnects after a loss of the broker.

    Args:
        url: ``amqp://`` or ``amqps://``.
        cohort: the cohort's name.
        key: suffix of the coordinator id; random when None.
        limits: bounds on messages and blobs.
        compression: which blobs are sent compressed; compressed blobs are always accepted.
        keys: this coordinator's key and its silos' keys; None: messages are not signed.
        on_announce: called for each announcement of a silo (on the event loop, must not block).
        on_leave: called for each departure of a silo.
        on_late: called for each reply and dead letter that no request waited for.
        on_forged: called with a silo's name, a session id and a reason (each empty if unknown) for each message in the
            silo's name that is not authentic, and for each forged message that a silo reports.

    Attributes:
        coordinator_id: the coordinator's name in routing keys.
        results: the silos' outputs, each kept for a while after its last use.
        dead: number of our work items that the broker dead-lettered or could not route, by reason.

    Raises:
        ConfigError: a bad URL, name or compression.
    """

    coordinator_id: str
    results: BlobStore
    dead: Counter[Reason]

    def __init__(
        self,
        url: str,
        cohort: str,
        *,
        key: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        compression: Compression = "off",
        keys: Keys | None = None,
        on_announce: Callable[[Announce], None],
        on_leave: Callable[[Leave], None],
        on_late: Callable[[Response], None] = lambda _: None,
        on_forged: Callable[[str, str, str], None] = lambda _silo, _session, _why: None,
    ) -> None:
        address = parse(url)
        self._cohort = check_name("cohort", cohort)
        name = secrets.token_hex(6) if key is None else key
        signer = "" if keys is None else keys.own.public.fingerprint
        self.coordinator_id = check_name("coordinator", topology.coordinator_id_of(cohort, name, signer))
        self._limits = limits
        many_limits = dataclasses.replace(
            limits, max_pending_blobs=16 * limits.max_pending_blobs
        )  # all silos send at once
        self.results = BlobStore(limits.max_pending_bytes, limits=many_limits, linger=RESULTS_LINGER)
        self._router = ReplyRouter(on_late)
        self.dead = Counter()
        self._misbehaviour = MisbehaviourCounter(limits.max_strikes)
        self._envelopes = CoordinatorEnvelopes(cohort, keys)
        self._forged = on_forged  # counts no strike: the silo in whose name a forged message came did not send it
        self._discovery = SiloDiscovery(
            cohort, self.coordinator_id, limits, self._envelopes, on_announce, on_leave, on_forged
        )
        self._control = ReconnectingConnection(
            address,
            f"fedbroker coordinator {cohort} {self.coordinator_id} control",
            self._set_up_control,
            restoration=Restoration(self._restore_control, RESTORE_SECONDS),
        )
        self._bulk = ReconnectingConnection(
            address,
            f"fedbroker coordinator {cohort} {self.coordinator_id} bulk",
            self._set_up_bulk,
            restoration=Restoration(self._restore_bulk, RESTORE_SECONDS),
        )
        self._transfer = BlobTransfer(self._bulk, topology.BLOBS, limits, compression)
        self._callback: topology.Queue | None = None  # under the names that they had the last time
        self._results: topology.Queue | None = None

    @property
    def late(self) -> int:
        """Number of replies and dead letters that no request waited for."""
        return self._router.late

    @property
    def ignored(self) -> Mapping[str, FedbrokerError]:
        """Why a silo's latest announcement is ignored, by the silo's name."""
        return self._discovery.ignored

    async def open(self, deadline: Deadline, patience: float = 0.0) -> None:
        """Connect, declare, and find the silos that wait in the lobby.

        The silos found there that are still running have been announced when this method returns.

        Args:
            deadline: for the whole call.
            patience: seconds to wait for a broker that does not listen yet.

        Raises:
            BrokerUnreachable: no host answers with AMQP, or not in time.
            BrokerRefused: wrong user, password, vhost or permission.
            TopologyMismatch: a queue or exchange exists with other properties.
            BrokerLost: the connection was lost during the call.
        """
        try:
            await self._control.open(deadline, patience)
            await self._bulk.open(deadline)
            await self._discovery.confirmed(deadline)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connections and delete this coordinator's queues.

        Takes a bounded time and does not raise if the broker is gone.
        """
        self._router.close(BrokerLost("the connection was closed", hint="open another one"))
        async with asyncio.TaskGroup() as closing:
            closing.create_task(self._control.close(self._leave_control))
            closing.create_task(self._bulk.close(self._leave_bulk))
        self.results.close()

    @property
    def traffic(self) -> dict[str, TrafficCounters]:
        """Traffic of the connections, by name: ``control`` and ``bulk``."""
        return {"control": self._control.traffic, "bulk": self._bulk.traffic}

    async def send_blob(
        self, digest: Digest, data: Buffer, *, silo: str | None, deadline: Deadline, session_id: str = ""
    ) -> None:
        """Send a blob to one silo, or once to the whole cohort (None); return when the broker has confirmed all of it.

        If blobs are sealed, only the silos of ``session`` can decrypt it.

        Raises:
            BrokerLost: the broker did not confirm the blob by the deadline.
            BrokerRefused: no permission, or the broker's limits are below ours.
            WireError: the blob is larger than the limits allow.
        """
        name, data = await self._envelopes.blob(session_id, digest, data, silo)
        await self._transfer.send(topology.blobs_key(self._cohort, silo), name, data, deadline)

    async def request(
        self, item: WorkItem, inline: Mapping[Digest, Buffer], deadline: Deadline, *, unread: Deadline | None = None
    ) -> Response:
        """Publish a work item and return the first response; see :meth:`start_request`."""
        async with self.start_request(item, inline, deadline, unread=unread) as pending:
            return await pending.next_response()

    @asynccontextmanager
    async def start_request(
        self, item: WorkItem, inline: Mapping[Digest, Buffer], deadline: Deadline, *, unread: Deadline | None = None
    ) -> AsyncGenerator[PendingRequest]:
        """Publish a work item, and receive the silo's replies and the broker's dead letters within the block.

        The blobs in ``inline`` are attached to the item. Small outputs are attached to ``Done`` and are in ``results``
        when it arrives. Larger ones may still be in flight: ``await results.get(...)``. The item expires at the broker
        if the silo has not picked it up by ``unread``, or else just before ``deadline``. Replies are awaited 0.25 s
        longer.

        Raises:
            WireError: the item exceeds the limits.
            DeadlineExceeded: its blobs were not sealed in time.
        """
        item = await self._envelopes.with_sealed_digests(item, deadline)
        body = self._envelopes.work(item, encode(item, list(inline.values()), self._limits))
        left = deadline.left()
        message_id = secrets.token_hex(12)
        message = Outgoing(
            topology.WORK,
            topology.work_key(self._cohort, item.silo, self.coordinator_id),
            body,
            mandatory=True,
            correlation_id=correlation(item),
            message_id=message_id,
            headers=tracing.carrier(),
            expiration=min(left - min(GRACE, EXPIRY_MARGIN * left), left if unread is None else unread.left()),
        )
        reply_deadline = Deadline.after(left + GRACE)
        publishing = asyncio.create_task(self._publish(message, reply_deadline))
        with ExitStack() as decrypting:
            request = PendingRequest(
                item,
                message_id,
                publishing,
                reply_deadline,
                lambda done: decrypting.enter_context(
                    self._envelopes.opening(
                        done, self.results, reply_deadline, partial(self._forged, done.silo, done.session_id)
                    )
                ),
            )
            try:
                with self._router.registered(request):
                    yield request
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)

    async def end_session(self, silo: str, session_id: str, incarnation: str = "") -> None:
        """Tell a silo, or one incarnation of it, to forget a session; best effort, like :meth:`send_notice`."""
        await self.send_notice(silo, EndSession(session_id, incarnation))

    async def fetch(self, silo: str, session_id: str, stage: int, incarnation: str) -> None:
        """Tell a silo to send the outputs that it has announced; best effort, like :meth:`send_notice`."""
        await self.send_notice(silo, Fetch(session_id, stage, incarnation))

    def mask_replies(self, session_id: str, stage: int, handler: MaskHandler) -> AbstractContextManager[None]:
        """Pass the silos' messages of a stage's masked sum to a handler within the block.

        The handler gets messages of members of the cohort only, but also repeated ones and ones of silos that the stage
        does not ask.
        """
        return self._router.mask_replies(session_id, stage, handler)

    async def send_notice(
        self,
        silo: str,
        notice: EndSession | Fetch | Accepted | Rejected | MaskNotice,
        attachments: Sequence[Buffer] = (),
    ) -> None:
        """Send a notice to a silo's mailbox; best effort within a bounded time: errors of the broker are logged.

        Raises:
            WireError: the attachments exceed the limits.
        """
        body = self._envelopes.notice(silo, encode(notice, attachments, self._limits))
        message = Outgoing(topology.MAIL, topology.silo_key(self._cohort, silo), body, persistent=False)
        try:
            await self._control.publish(message, Deadline.after(NOTICE_TIMEOUT))
        except BrokerError as error:
            _log.warning("notice_not_sent", kind=type(notice).__name__, silo=silo, reason=str(error))

    async def trouble(self) -> BrokerLost | None:
        """Return why the broker accepts no messages at the moment, as during an alarm; None if it accepts them."""
        unheard = topology.silo_key(self._cohort, self.coordinator_id)  # no queue is bound with it
        try:
            await self._control.check(
                Outgoing(topology.MAIL, unheard, b"", persistent=False), Deadline.after(TROUBLE_TIMEOUT)
            )
        except BrokerLost as error:
            return error
        except BrokerError as error:
            _log.debug("broker_not_checked", reason=str(error))
        return None

    async def _publish(self, item: Outgoing, deadline: Deadline) -> None:
        try:
            await self._control.publish(item, deadline, route_timeout=ROUTE_TIMEOUT)
        except Unroutable:
            self.dead["unroutable"] += 1
            raise

    async def _set_up_control(self, connection: Connection) -> None:
        archive = topology.archive(self._cohort)
        await connection.declare(topology.EXCHANGES, (archive,))
        self._callback = await declare_with_failover(
            connection, topology.callback_queue(self.coordinator_id), self._callback
        )
        await connection.consume(self._callback, self._on_callback, prefetch=REPLY_PREFETCH)
        await self._discovery.listen(connection)
        await check_leader(connection, archive)

    async def _set_up_bulk(self, connection: Connection) -> None:
        reconnected = self._results is not None
        await connection.declare((topology.BLOBS, topology.RESULTS), ())
        self._results = await declare_with_failover(
            connection, topology.results_queue(self.coordinator_id), self._results
        )
        if reconnected:
            self.results.connection_lost()
        on_chunk = receiver(self.results, self._limits, refused=self._on_bad_chunk)
        await connection.consume(self._results, on_chunk, prefetch=PREFETCH)

    async def _restore_control(self, connection: Connection) -> list[str]:
        own = () if self._callback is None else (self._callback,)
        return await connection.restore(
            topology.EXCHANGES, (*own, *self._discovery.queues, topology.archive(self._cohort))
        )

    async def _restore_bulk(self, connection: Connection) -> list[str]:
        own = () if self._results is None else (self._results,)
        return await connection.restore((topology.BLOBS, topology.RESULTS), own)

    async def _leave_control(self, connection: Connection) -> None:
        if self._callback is not None:
            await connection.delete(self._callback)

    async def _leave_bulk(self, connection: Connection) -> None:
        if self._results is not None:
            await connection.delete(self._results)

    async def _on_callback(self, delivery: Delivery) -> None:
        """Handle a reply or a dead-lettered work item of ours, and settle the request that waits for it."""
        silo = _sender(delivery.key)
        if delivery.death is None and self._misbehaviour.exceeds_limit(silo, time.monotonic()):
            await delivery.ack()
            return
        try:
            if delivery.death is not None:
                self._on_dead(dead_letter_of(delivery.correlation_id, delivery.death), delivery.message_id)
                await delivery.ack()
                return
            message, attachments = decode(self._envelopes.reply(delivery), self._limits)
            match message:
                case Done() | Failed() | Need() if delivery.key == topology.reply_key(
                    self.coordinator_id, message.session_id, message.stage, message.silo
                ):
                    if isinstance(message, Done):
                        for attachment in attachments:
                            self.results.put(attachment)
                        for report in message.forgery_reports:
                            self._forged(silo, message.session_id, f"at the silo: {report}")
                    if not self._router.settle(message):
                        self._count_strike(silo)
                        await self._release_deferred(message)
                case MaskReply() if delivery.key == topology.reply_key(
                    self.coordinator_id, message.session_id, message.stage, message.silo
                ):
                    if not self._router.settle_masks(message, attachments[0]):
                        self._count_strike(silo)
                case _:
                    raise WireError(f"a {type(message).__name__} under the routing key {delivery.key!r}")
        except Forged as error:
            self._forged(silo, delivery.key.split(".")[1] if delivery.key.count(".") > 1 else "", error.what)
        except WireError as error:
            _log.warning("message_dropped", at="callback", key=delivery.key, reason=error.what)
            self._count_strike(silo)
        await delivery.ack()

    def _on_bad_chunk(self, key: str, why: str) -> None:
        """Count a strike of the silo; if messages are signed, report a forgery, as a third party sent the chunk."""
        if self._envelopes.is_signed:
            self._forged(_sender(key), "", why)
        else:
            self._count_strike(_sender(key))

    def _on_dead(self, dead: Dead, message_id: str) -> None:
        self.dead[dead.reason] += 1
        self._router.settle(dead, message_id)

    async def _release_deferred(self, late: Done | Failed | Need) -> None:
        """Release the outputs that a silo holds for a late reply, so that it need not keep them until the deadline."""
        if isinstance(late, Done) and late.deferred and not self._router.waits_for(late):
            await self.send_notice(late.silo, Fetch(late.session_id, late.stage, late.incarnation, wanted=False))

    def _count_strike(self, silo: str) -> None:
        """Count an invalid or unrequested message; beyond the limit, refuse the silo's pending requests."""
        if not self._misbehaviour.add(silo, time.monotonic()):
            return
        cause = f"it sent more than {self._limits.max_strikes} invalid or unrequested messages"
        _log.error("silo_muted", silo=silo, reason=cause)
        self._router.refuse(silo, cause, "see its log, and what else uses its user at the broker")


def _sender(key: str) -> str:
    """Return the silo's name at the end of a routing key."""
    return key.rpartition(".")[2]
