"""The running work items of a silo: each is answered once, and cancelled work stops."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, WireError
from fedbroker.log import get_logger
from fedbroker.lru import LruMap
from fedbroker.transport.signed_messages import UNSIGNED
from fedbroker.wire.messages import Done, Failed, Need
from fedbroker_worker.errors import SessionLost, WorkRefused
from fedbroker_worker.journal.journal import WorkJournal
from fedbroker_worker.policy.recording import SESSION_CANCELLED
from fedbroker_worker.policy.rules import LONGEST_STAGE
from fedbroker_worker.threads import in_thread
from fedbroker_worker.work.failures import failed_reply
from fedbroker_worker.work.worker import WorkReply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedbroker.transport import Signed, SiloTransport
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, EndSession, WorkItem
    from fedbroker_worker.journal.entry import WorkEntry
    from fedbroker_worker.masking.exchanges import Exchanges
    from fedbroker_worker.policy.accepted import AcceptedFile
    from fedbroker_worker.work.sessions import Sessions
    from fedbroker_worker.work.worker import Worker

__all__ = ["ReplyCache", "WorkTasks"]

_log = get_logger(__name__)

STOPPED: Final = "the silo stopped; the broker gives the work to the next process"
"""The reason of a cancellation after which the broker delivers the work again."""

REPLY_GRACE: Final = 30.0
"""Seconds beyond the stage's time for which a reply is retried while the broker is unreachable."""

MAX_ENDED: Final = 1024
"""The most cancelled sessions to remember, because their work may arrive after the notice of their end.

Also the most nonces to remember as recorded. Far more than a silo has at a time; they take less than a megabyte.
"""


_LEAVING: Final = "this silo is leaving its cohort and accepts no new session"
_PAUSED: Final = "this silo is paused by its administrator and accepts no new session"

_Key: TypeAlias = tuple[str, str, int]
"""The fingerprint of the signer and the id, which identify a session, and the stage."""


class WorkTasks:
    """The running work items, one task for each.

    Args:
        silo: the silo's name.
        incarnation: the id of this process.
        transport: sends the replies.
        worker: computes the replies.
        sessions: the sessions for which the silo keeps values.
        reply_cache: recent replies, for redelivered work.
        on_reply: called with each reply before it is sent; must not block.
        accepted: the record of signed work, written before the reply leaves; None for no record.
        exchanges: the masked sums that end with their session; None if the silo takes part in none.
        journal: the administrator's record of recent work; None for one that is thrown away.

    Attributes:
        replies_failed: number of replies that could not be sent.
    """

    replies_failed: int

    def __init__(
        self,
        silo: str,
        incarnation: str,
        transport: SiloTransport,
        worker: Worker,
        sessions: Sessions,
        reply_cache: ReplyCache,
        on_reply: Callable[[WorkReply], None] | None = None,
        accepted: AcceptedFile | None = None,
        exchanges: Exchanges | None = None,
        journal: WorkJournal | None = None,
    ) -> None:
        self._journal = journal or WorkJournal()
        self._silo = silo
        self._incarnation = incarnation
        self._transport = transport
        self._worker = worker
        self._sessions = sessions
        self._reply_cache = reply_cache
        self._on_reply = on_reply
        self._accepted = accepted
        self._exchanges = exchanges
        self._computing: dict[_Key, asyncio.Task[None]] = {}
        self._running: dict[asyncio.Task[None], _Key] = {}
        # Kept here, because the message of `cancel()` is lost where the task awaits tasks that others await, too.
        self._cancel_reasons: dict[asyncio.Task[None], str] = {}
        self._ended_sessions: LruMap[tuple[str, str], None] = LruMap(MAX_ENDED)
        self._recorded: LruMap[str, None] = LruMap(MAX_ENDED)  # nonces, so that each is recorded once
        self._leaving = False
        self._paused = False
        self._closing = False
        self.replies_failed = 0

    def __len__(self) -> int:
        """Return the number of work items, including those whose reply is being sent."""
        return len(self._running)

    def leave(self) -> None:
        """Refuse work of new sessions from now on."""
        self._leaving = True

    def pause(self) -> None:
        """Refuse work of new sessions until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Take work of new sessions again."""
        self._paused = False

    async def wait_until_one_is_done(self, deadline: Deadline) -> None:
        """Wait until a work item is done, or until the deadline."""
        await asyncio.wait(self._running, timeout=deadline.left(), return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Cancel all running work; the broker delivers it to the next process with this silo's name."""
        self._closing = True
        tasks = list(self._running)
        for task in tasks:
            self._cancel(task, STOPPED)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer(self, item: WorkItem, signed: Signed = UNSIGNED) -> None:
        """Answer a work item; if it is redelivered while it is being computed, wait for the same reply.

        Signed work is done once. A redelivered message gets the cached reply, or none if the cache has dropped that
        reply: by then the broker has accepted it, or the work's time is over.
        """
        key = (signed.by, item.session_id, item.stage)
        task = self._computing.get(key)
        if task is None:
            if signed.repeated and self._reply_cache.get(item.session_id, item.stage, signed.by) is None:
                _log.warning("work_ignored", session=item.session_id, stage=item.stage, reason="already done")
                return
            task = asyncio.create_task(self._serve(item, signed, key), name=f"work {item.session_id}.{item.stage}")
            self._computing[key] = task
            self._running[task] = key
            task.add_done_callback(self._forget)
        elif self._exchanges is not None and not signed.repeated:
            self._exchanges.repeat_offer(item, signed.by)
        await asyncio.wait([task])  # not awaited itself: if the delivery is cancelled, the task goes on
        if task.cancelled() and self._closing:
            raise asyncio.CancelledError  # not done: the broker delivers it to the next process
        await self._record(signed)

    async def _record(self, signed: Signed) -> bool:
        """Record that a message's work is done, or cancelled by its coordinator; return False if that fails."""
        if self._accepted is None or signed.accepted is None or signed.nonces[0] in self._recorded:
            return True
        try:
            await in_thread(partial(self._accepted.append, signed.accepted), "record")
        except OSError as error:
            _log.error("work_record_failed", reason=str(error))
            return False
        self._recorded[signed.nonces[0]] = None
        return True

    def _cancel(self, task: asyncio.Task[None], reason: str) -> None:
        self._cancel_reasons[task] = reason
        task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        key = self._running.pop(task)
        self._cancel_reasons.pop(task, None)
        if self._computing.get(key) is task:
            del self._computing[key]

    def end_session(self, message: EndSession, by: str = "") -> None:
        """End a session that its coordinator cancels: its running work stops without a reply.

        Args:
            message: the notice.
            by: the fingerprint of its signer: only sessions of the same signer end.
        """
        if message.incarnation not in ("", self._incarnation):
            return  # meant for an earlier process with this silo's name
        ended = (by, message.session_id)
        self._ended_sessions[ended] = None
        for task, (signer, session_id, _) in list(self._running.items()):
            if (signer, session_id) == ended:
                self._cancel(task, SESSION_CANCELLED)
        self._sessions.end(message.session_id, by)
        self._reply_cache.forget(message.session_id, by)
        if self._exchanges is not None:
            self._exchanges.end(message.session_id, by)
        _log.info("session_ended", session=message.session_id)

    async def _serve(self, item: WorkItem, signed: Signed, key: _Key) -> None:
        structlog.contextvars.bind_contextvars(session=item.session_id, stage=item.stage)
        _log.info("work_received", operations=len(item.ops), seconds_left=round(item.timeout, 3))
        started = time.monotonic()
        entry = self._journal.received(item, signed)
        with (
            tracing.only_codes(),
            tracing.span("work", "consumer", silo=item.silo, session=item.session_id, stage=item.stage) as span,
        ):
            reply = await self._journaled(item, signed, entry)
            # The coordinator may get the reply, and request the work again, before the broker confirms the reply here:
            # another task must answer that request.
            del self._computing[key]
            if self._on_reply is not None:
                self._on_reply(reply)
            _log_reply(reply, time.monotonic() - started)
            if isinstance(reply.message, Failed):
                span.failed(reply.message.cause, reply.message.error_type)
            with tracing.span("transfer", what="answer", bytes=sum(map(len, reply.outputs.values()))):
                await self._reply(item, reply, signed)
            entry.sent()

    async def _journaled(self, item: WorkItem, signed: Signed, entry: WorkEntry) -> WorkReply:
        """Answer a work item, and note in the journal how it ended."""
        try:
            reply = await self._answer(item, signed, entry)
        except asyncio.CancelledError:
            why = self._why_cancelled()
            entry.cancelled(why, by_coordinator=why == SESSION_CANCELLED)
            raise
        declined = isinstance(reply.message, Failed) and reply.message.cause in (_LEAVING, _PAUSED)
        entry.ended(reply.message, declined=declined)
        return reply

    def _why_cancelled(self) -> str:
        task = asyncio.current_task()
        return STOPPED if task is None else self._cancel_reasons.get(task, STOPPED)

    async def _answer(self, item: WorkItem, signed: Signed, entry: WorkEntry) -> WorkReply:
        if (signed.by, item.session_id) in self._ended_sessions:
            return WorkReply(self._failed(item, WorkRefused("the coordinator ended the session")))
        cached = self._reply_cache.get(item.session_id, item.stage, signed.by)
        if cached is not None:
            return WorkReply(*cached)
        if (self._leaving or self._paused) and not self._sessions.is_alive(item.session_id, signed.by):
            cause = _LEAVING if self._leaving else _PAUSED
            return WorkReply(self._failed(item, SessionLost(cause, hint="run the computation again")))
        reply = await self._worker.answer(item, signed, self._why_cancelled, entry)
        if not await self._record(signed):
            cause = "the silo cannot write its record of finished work"
            return WorkReply(self._failed(item, WorkRefused(cause, hint="see the silo's log")))
        if isinstance(reply.message, Done):
            self._reply_cache.put(reply.message, reply.outputs, signed.by)
        return reply

    async def _reply(self, item: WorkItem, reply: WorkReply, signed: Signed) -> None:
        """Send the reply; if it exceeds the limits, send a failure that says so."""
        deadline = Deadline.after(min(item.timeout, LONGEST_STAGE) + REPLY_GRACE)
        try:
            try:
                await self._transport.reply(item, reply.message, reply.outputs, deadline, signed)
            except WireError as error:
                await self._transport.reply(item, self._failed(item, error), {}, deadline, signed)
        except FedbrokerError as error:
            self.replies_failed += 1
            _log.error("reply_failed", reason=str(error))

    def _failed(self, item: WorkItem, error: FedbrokerError) -> Failed:
        return failed_reply(item, self._silo, self._incarnation, error)


def _log_reply(work_reply: WorkReply, seconds: float) -> None:
    reply = work_reply.message
    if isinstance(reply, Done):
        size = sum(size for _, size in reply.outputs)
        _log.info("work_finished", outputs=len(reply.outputs), bytes=size, seconds=round(seconds, 3))
    elif isinstance(reply, Need):
        _log.info("blobs_missing", count=len(reply.digests))
    else:
        _log.warning("work_failed", kind=reply.error_type, reason=reply.cause, seconds=round(seconds, 3))


LINGER: Final = 300.0
"""Seconds for which a reply is cached for redelivered work.

The broker redelivers as soon as the connection is back, usually within seconds.
"""


@dataclass(frozen=True, slots=True)
class _CachedReply:
    stage: int
    done: Done
    outputs: Mapping[Digest, Buffer]
    size: int
    timer: asyncio.TimerHandle


class ReplyCache:
    """Each session's latest reply, cached for some time: work for a later stage proves that the earlier reply arrived.

    A session is identified by the fingerprint of its signer, ``by``, and its id: another signer never gets its reply.

    Args:
        capacity: bytes of outputs to keep; the oldest replies are dropped first.
        linger: seconds to keep a reply.
    """

    def __init__(self, capacity: int, *, linger: float = LINGER) -> None:
        self._capacity = capacity
        self._linger = linger
        self._replies: OrderedDict[tuple[str, str], _CachedReply] = OrderedDict()
        self._bytes = 0

    @property
    def kept_bytes(self) -> int:
        """The size of all cached outputs in bytes."""
        return self._bytes

    def put(self, done: Done, outputs: Mapping[Digest, Buffer], by: str = "") -> None:
        """Keep a reply in place of the session's earlier one."""
        self.forget(done.session_id, by)
        size = sum(memoryview(output).nbytes for output in outputs.values())
        timer = asyncio.get_running_loop().call_later(self._linger, self.forget, done.session_id, by)
        self._replies[by, done.session_id] = _CachedReply(done.stage, done, outputs, size, timer)
        self._bytes += size
        while self._bytes > self._capacity:
            oldest_by, oldest_session = next(iter(self._replies))
            self.forget(oldest_session, oldest_by)

    def get(self, session_id: str, stage: int, by: str = "") -> tuple[Done, Mapping[Digest, Buffer]] | None:
        """Return the reply to that stage's work and its outputs; None if it is not cached."""
        cached = self._replies.get((by, session_id))
        return (cached.done, cached.outputs) if cached is not None and cached.stage == stage else None

    def forget(self, session_id: str, by: str = "") -> None:
        """Drop a session's reply, if any."""
        cached = self._replies.pop((by, session_id), None)
        if cached is not None:
            cached.timer.cancel()
            self._bytes -= cached.size

    def clear(self) -> None:
        """Drop all replies."""
        for by, session_id in list(self._replies):
            self.forget(session_id, by)
