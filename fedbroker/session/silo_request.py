"""The request to one silo in one client stage: its work item, the blobs that it lacks, and its results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import ComputationFailed, DeadlineExceeded, Missing, WireError
from fedbroker.log import get_logger
from fedbroker.session.journal import SessionJournal
from fedbroker.session.ports import PendingRequest, SessionTransport, StageWork
from fedbroker.session.report import RequestTimings
from fedbroker.session.roster import BlobCacheIndex, Member, needs
from fedbroker.session.stage_state import Lost, Outcome, outcome_name, why
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.codec import Buffer
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Digest, Done, Failed, Need, Op, WorkItem

__all__ = ["SiloRequest"]

ROUNDS_OF_NEED = 3
"""Number of times that a silo may ask for blobs that it lacks; the request then fails."""

ROUNDS_OF_RESULTS = 3
"""Number of times that results may be lost in transfer; the request then fails. The silo keeps them until then."""

RESULT_PATIENCE = 30.0
"""Seconds without progress on the bulk lane after which an announced result counts as lost."""

LEASE_SLACK = 60.0
"""Seconds beyond the stage's own time for which a silo keeps a session that it hears nothing of, for the server stages
in between."""

LARGE: Final = 4 << 20
"""Bytes of results from which a thread checks them: a check on the event loop would block the other requests."""

READING_SHARE: Final = 0.9
"""Share of the stage's remaining time that reading a reply may take: the rest is for reporting that it took longer."""

LONGEST_WORDS: Final = 400
"""Characters kept of the runtime's error on a reply that it could not read: the silo could make it of any length."""

Reply: TypeAlias = Done | Failed | Need | Dead

_SEQUENCE: Final = "see that its data can be read to their end, or drop the silo (stragglers, quorum)"
_SLOW: Final = "return fewer elements, raise stage_timeout, or drop the silo (stragglers, quorum)"

_log = get_logger(__name__)


@dataclass
class SiloRequest:
    """The request to one silo in one stage.

    Attributes:
        session: the session's id.
        lane: transport to the silo.
        known: index of the blobs that each silo has.
        work: the work of the stage.
        program: the operations for this silo.
        member: the silo.
        clients: number of its clients.
        inline: digests of the blobs sent with the work item.
        bulk: digests of the blobs sent to it on the bulk lane.
        deadline: deadline of the stage.
        unread: deadline for picking up the work item; None for the stage's own deadline.
        talk: times and sizes for the report.
        send: starts sending blobs to it on the bulk lane.
        turn: waits until room is left for so many bytes of its results.
        hold: bytes of results that it uploads without being told to; 0 for any number.
        limits: limits on blobs.
        journal: records its outputs; None without a journal.
        outputs: serialized executor values, once it has answered.
    """

    session: str
    lane: SessionTransport
    known: BlobCacheIndex
    work: StageWork
    program: tuple[Op, ...]
    member: Member
    clients: int
    inline: Sequence[Digest]
    bulk: Sequence[Digest]
    deadline: Deadline
    unread: Deadline | None
    talk: RequestTimings
    send: Callable[[Sequence[Digest]], object]
    turn: Callable[[int], Awaitable[None]]
    hold: int
    limits: Limits
    journal: SessionJournal | None = None
    outputs: Sequence[Buffer] = ()

    async def run(self) -> Outcome:
        """Ask until the silo has all blobs that it needs, and return the outcome.

        Raises:
            BrokerError: the broker went away and did not come back in time, or refuses us.
        """
        with tracing.span("silo request", "producer", silo=self.member.name, stage=self.work.stage) as span:
            outcome = await self._run()
            span.set(outcome=outcome_name(outcome), asked=self.talk.asked, bytes_out=self.talk.bytes_out)
            if not isinstance(outcome, Done):
                span.failed(why(outcome), outcome_name(outcome))
            return outcome

    async def _run(self) -> Outcome:
        inline, fresh = tuple(self.inline), tuple(self.bulk)
        self.talk.started = time.monotonic()
        before = self.journal.answer(self.work.stage, self.member.name) if self.journal is not None else None
        if before is not None:
            self.outputs = before
            return await self._unreadable() or self._remembered(before)
        self.talk.bytes_out = self._size(fresh)
        unread, needed, missed = self.unread, 0, 0
        while needed < ROUNDS_OF_NEED:
            try:
                outcome = await self._ask(inline, fresh, unread, hold=self.hold if missed == 0 else 0)
            except Missing as missing:
                missed += 1
                if missed == ROUNDS_OF_RESULTS:
                    return self._failed("lost", "its results were lost on the way", "run the computation again")
                _log.info("results asked for again", session=self.session, silo=self.member.name, reason=str(missing))
                inline, unread = (), None
                continue
            if not isinstance(outcome, Need):
                return outcome
            needed, unread = needed + 1, None
            _log.info("blobs sent again", session=self.session, silo=self.member.name, count=len(outcome.digests))
            self.known.forget(self.member, outcome.digests)
            inline = tuple(d for d in outcome.digests if len(self.work.blobs[d]) <= self.limits.inline_blob)
            large = tuple(d for d in outcome.digests if d not in inline)
            # The work item is sent before the blobs, so that the silo makes room and keeps the first ones.
            self.send(large)
            self.talk.bytes_out += self._size(large)
            fresh = tuple(dict.fromkeys((*fresh, *large)))
        cause = f"it asked {ROUNDS_OF_NEED} times for blobs that it had been sent"
        return self._failed("lost", cause, "give it more room for blobs ([silo] blob_cache_bytes)")

    async def _ask(
        self, inline: Sequence[Digest], fresh: Sequence[Digest], unread: Deadline | None, *, hold: int
    ) -> Outcome | Need:
        blobs = {digest: self.work.blobs[digest] for digest in inline}
        item = self._item({digest: len(self.work.blobs[digest]) for digest in fresh}, hold)
        self.talk.asked += 1
        self.talk.bytes_out += self._size(inline)
        try:
            async with self.lane.asking(item, blobs, self.deadline, unread=unread) as asked:
                reply = await asked.answer()
                self.talk.replied = time.monotonic()
                if isinstance(reply, Done):
                    reply = await self._with_results(asked, reply)
            if isinstance(reply, Dead):
                return Lost(self.member.name, reply.reason)
            if isinstance(reply, Done):
                if (wrong := await self._wrong(reply)) is not None:
                    return wrong
                self.talk.fetched = time.monotonic()
                if self.journal is not None:
                    await self.journal.record_answer(self.work.stage, self.member.name, self.outputs)
                self.known.add(self.member, needs(item.ops))
        except (DeadlineExceeded, TimeoutError):
            return Lost(self.member.name, "time")
        if isinstance(reply, Need) and not self.work.blobs.keys() >= set(reply.digests):
            return self._failed("refused", "it asked for blobs that it was never to have", "see its log")
        return reply

    async def _wrong(self, reply: Done) -> Failed | None:
        """Return the failure of a silo whose outputs are not the requested ones; None if they are."""
        if [len(output) for output in self.outputs] != [size for _, size in reply.outputs]:
            return self._nonsense("an output is not of the size that was announced")
        try:
            if sum(map(len, self.outputs)) > LARGE:
                await asyncio.to_thread(self.work.check, self.outputs, self.clients)
            else:
                self.work.check(self.outputs, self.clients)
        except WireError as error:
            return self._nonsense(error.what, error.hint)
        except Exception as error:  # a gap in our own checks: still the failure of this silo alone
            _log.exception("answer not understood", session=self.session, silo=self.member.name)
            return self._nonsense(f"it cannot be read ({type(error).__name__})")
        return await self._unreadable()

    async def _unreadable(self) -> Failed | None:
        """Return the failure of a silo whose outputs cannot be read, or not in time; None if they can."""
        if self.work.read is None:
            return None
        seconds = READING_SHARE * self.deadline.left()
        try:
            async with asyncio.timeout(seconds):
                await self.work.read(self.member.name, self.outputs)
        except WireError as error:
            return self._nonsense(error.what, error.hint)
        except ComputationFailed as error:
            return self._nonsense(f"a sequence in it cannot be read: {error.what[:LONGEST_WORDS]}", _SEQUENCE)
        except TimeoutError:
            return self._nonsense(f"a sequence in it was not read within {seconds:.3g} s", _SLOW)
        return None

    def _announced_wrong(self, reply: Done) -> Failed | None:
        """Return the failure of a silo that announces outputs other than the requested ones, which are not awaited."""
        wanted, found = self.work.outputs, len(reply.outputs)
        if wanted is not None and found != wanted:
            return self._nonsense(f"{found} outputs, and not {wanted}")
        if any(size > self.limits.max_blob for _, size in reply.outputs):
            return self._nonsense(f"an output of more than {self.limits.max_blob} bytes")
        return None

    def _nonsense(self, why: str, hint: str = "use the same version at both ends, or see its log") -> Failed:
        self.outputs = ()
        return self._failed("refused", f"its answer makes no sense: {why}", hint)

    def _remembered(self, outputs: Sequence[Buffer]) -> Done:
        """Return the reply of a silo that had answered before we were killed."""
        self.talk.replied = self.talk.fetched = self.talk.started
        sizes = tuple((digest_of(output), len(output)) for output in outputs)
        return Done(self.session, self.work.stage, self.member.name, self.member.incarnation, sizes, 0.0)

    async def _with_results(self, asked: PendingRequest, reply: Done) -> Reply:
        """Wait for results that are not in the reply. Another reply to the work item replaces this one.

        The other reply is the broker's notice that the item is dead, or comes from the incarnation that got it next.
        """
        for _ in range(ROUNDS_OF_RESULTS):
            if (wrong := self._announced_wrong(reply)) is not None:
                return wrong
            if not reply.deferred and all(digest in self.lane.results for digest, _ in reply.outputs):
                await self._here(reply)
                return reply
            coming, answering = asyncio.create_task(self._come(reply)), asyncio.create_task(asked.answer())
            try:
                await asyncio.wait((coming, answering), return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    return await coming
                answer = await answering
            finally:
                coming.cancel()
                answering.cancel()
                await asyncio.gather(coming, answering, return_exceptions=True)
            if not isinstance(answer, Done):
                return answer
            reply = answer
        return self._failed("lost", f"it announced its results {ROUNDS_OF_RESULTS} times", "see its log")

    async def _come(self, reply: Done) -> Done:
        """Wait for the results. If the silo holds them, tell it to upload them when room is left."""
        if not reply.deferred:
            await self._here(reply)
            return reply
        digests = [digest for digest, _ in reply.outputs]
        async with asyncio.timeout(self.deadline.left()):
            await self.turn(sum(size for _, size in reply.outputs))
        with self.lane.results.pinned(digests):
            await self.lane.fetch(reply.silo, reply.session_id, reply.stage, reply.incarnation)
            await self._here(reply)
        for digest in digests:
            self.lane.results.spent(digest)
        return reply

    async def _here(self, reply: Done) -> None:
        """Wait for results that the silo is sending."""
        results, size = self.lane.results, sum(size for _, size in reply.outputs)
        digests = [digest for digest, _ in reply.outputs]
        with tracing.span("transfer", what="results", bytes=size), results.pinned(digests):
            self.outputs = [await results.get(digest, self.deadline, RESULT_PATIENCE) for digest in digests]

    def _item(self, fresh: dict[Digest, int], hold: int) -> WorkItem:
        left = self.deadline.left()
        return WorkItem(
            session_id=self.session,
            stage=self.work.stage,
            silo=self.member.name,
            coordinator_id=self.lane.coordinator_id,
            clients=self.clients,
            ops=self.program,
            incoming=fresh,
            timeout=left,
            lease=left + LEASE_SLACK,
            ends_session=self.work.last,
            defer_above=hold,
        )

    def _size(self, digests: Sequence[Digest]) -> int:
        return sum(len(self.work.blobs[digest]) for digest in digests)

    def _failed(self, kind: Literal["lost", "refused"], cause: str, hint: str) -> Failed:
        member = self.member
        return Failed(self.session, self.work.stage, member.name, member.incarnation, kind, cause, hint)
