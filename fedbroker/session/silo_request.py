"""The request to one silo in one client stage: its work item, the blobs that it lacks, and its results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import ComputationFailed, DeadlineExceeded, MaskingError, Missing, WireError
from fedbroker.log import get_logger
from fedbroker.session.journal import SessionJournal
from fedbroker.session.ports import PendingRequest, SessionTransport, StageWork
from fedbroker.session.report import RequestTimings
from fedbroker.session.roster import BlobCacheIndex, Member
from fedbroker.session.stage_state import Lost, Outcome, outcome_name, why
from fedbroker.text import printable, seconds_text
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.codec import Buffer
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import MAX_COMPUTATION_NAME, Digest, Done, Failed, Need, Op, OptionalDigest, WorkItem

__all__ = ["SiloRequest", "StageContext"]

MAX_BLOB_REQUESTS: Final = 3
"""Number of times that a silo may ask for blobs that it lacks; the request then fails. Once is normal after a restart;
a cache that is too small for the stage loses the blobs each time."""

MAX_RESULT_ATTEMPTS: Final = 3
"""Number of times that results may be lost in transfer; the request then fails. The silo keeps them until then. A lost
connection loses them once; further losses have a cause that more attempts do not remove."""

RESULT_PATIENCE: Final = 30.0
"""Seconds without progress on the bulk lane after which an announced result counts as lost: longer than a reconnection
to the broker takes."""

LEASE_SLACK: Final = 60.0
"""Seconds beyond the stage's own time for which a silo keeps a session that it hears nothing of, for the server stages
in between."""

CHECK_IN_THREAD_BYTES: Final = 4 << 20
"""Bytes of results from which a thread checks them: a check on the event loop would block the other requests."""

READING_SHARE: Final = 0.9
"""Share of the stage's remaining time that reading a reply may take: the rest is for reporting that it took longer."""

MAX_ERROR_CHARS: Final = 400
"""Characters kept of the runtime's error on a reply that it could not read: the silo could make it of any length."""

Reply: TypeAlias = Done | Failed | Need | Dead

_SEQUENCE: Final = "see that its data can be read to their end, or drop the silo (stragglers, quorum)"
_LARGE: Final = "let the silo return less, or raise max_blob in the program's Options(limits=)"
_SLOW: Final = "return fewer elements, raise Timeouts(stage=), or drop the silo (stragglers, quorum)"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class StageContext:
    """The common part of all requests of one running stage.

    Attributes:
        session_id: the session's id.
        transport: transport to the silos.
        blob_index: the blobs that each silo has.
        limits: limits on blobs.
        journal: records outputs; None without a journal.
        work: the work of the stage.
        deadline: deadline of the stage.
        task_group: runs the tasks of the stage.
        request: the digest of the stage's masking request; empty if nothing is masked.
        tasks: the tasks that were started.
    """

    session_id: str
    transport: SessionTransport
    blob_index: BlobCacheIndex
    limits: Limits
    journal: SessionJournal | None
    work: StageWork
    deadline: Deadline
    task_group: asyncio.TaskGroup
    request: OptionalDigest = ""
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work in the background until the stage ends; its error ends the stage."""
        task = self.task_group.create_task(work)
        self.tasks.append(task)
        return task

    async def send_blobs(self, digests: Sequence[Digest], silo: str | None) -> None:
        """Send blobs one after another to one silo or, with None, to the cohort."""
        for digest in digests:
            blob = self.work.blobs[digest]
            with tracing.span("transfer", what="blob", bytes=len(blob), silo=silo or "*"):
                await self.transport.send_blob(
                    digest, blob, silo=silo, deadline=self.deadline, session_id=self.session_id
                )


@dataclass(slots=True, eq=False)
class SiloRequest:
    """The request to one silo in one stage.

    Attributes:
        stage: the part that is common to all requests of the stage.
        member: the silo.
        slot: its place in membership order.
        ops: the operations for this silo.
        clients: number of its clients.
        inline: digests of the blobs sent with the work item.
        bulk: digests of the blobs sent to it separately.
        pickup: deadline for picking up the work item; None for the stage's own deadline.
        allowance: bytes of results that it uploads without being told to; 0 for any number.
        timings: times and sizes for the report.
        outputs: serialized executor values, once it has answered.
    """

    stage: StageContext
    member: Member
    slot: int
    ops: tuple[Op, ...]
    clients: int
    inline: Sequence[Digest]
    bulk: Sequence[Digest]
    pickup: Deadline | None
    allowance: int
    timings: RequestTimings
    outputs: Sequence[Buffer] = ()

    async def run(self) -> Outcome:
        """Ask until the silo has all blobs that it needs, and return the outcome.

        Raises:
            BrokerError: the broker went away and did not come back in time, or refuses us.
        """
        with tracing.span("silo request", "producer", silo=self.member.name, stage=self.stage.work.stage) as span:
            outcome = await self._run()
            span.set(outcome=outcome_name(outcome), asked=self.timings.asked, bytes_out=self.timings.bytes_out)
            if not isinstance(outcome, Done):
                span.failed(why(outcome), outcome_name(outcome))
            return outcome

    async def _run(self) -> Outcome:
        stage, silo = self.stage, self.member.name
        inline, incoming = tuple(self.inline), tuple(self.bulk)
        self.timings.started = time.monotonic()
        recorded = None if stage.journal is None else stage.journal.answer(stage.work.stage, silo)
        if recorded is not None:
            self.outputs = recorded
            return await self._check_masked() or await self._read_sequences() or self._recorded_reply(recorded)
        self.timings.bytes_out = self._size(incoming)
        pickup, blob_requests, lost_results = self.pickup, 0, 0
        while blob_requests < MAX_BLOB_REQUESTS:
            try:
                outcome = await self._ask(inline, incoming, pickup, self.allowance if lost_results == 0 else 0)
            except Missing as missing:
                lost_results += 1
                if lost_results == MAX_RESULT_ATTEMPTS:
                    return self.failed("lost", "its results were lost on the way", "run the computation again")
                _log.info("results_requested_again", session=stage.session_id, silo=silo, reason=str(missing))
                inline, pickup = (), None
                continue
            if not isinstance(outcome, Need):
                return outcome
            blob_requests, pickup = blob_requests + 1, None
            _log.info("blobs_sent_again", session=stage.session_id, silo=silo, count=len(outcome.digests))
            stage.blob_index.forget(self.member, outcome.digests)
            inline = tuple(d for d in outcome.digests if len(stage.work.blobs[d]) <= stage.limits.inline_blob)
            large = tuple(d for d in outcome.digests if d not in inline)
            # The work item is sent before the blobs, so that the silo makes room and keeps the first ones.
            stage.start_task(stage.send_blobs(large, silo))
            self.timings.bytes_out += self._size(large)
            incoming = tuple(dict.fromkeys((*incoming, *large)))
        cause = f"it asked {MAX_BLOB_REQUESTS} times for blobs that it had been sent"
        return self.failed("lost", cause, "give it more room for blobs ([silo] blob_cache_bytes)")

    async def _ask(
        self, inline: Sequence[Digest], incoming: Sequence[Digest], pickup: Deadline | None, allowance: int
    ) -> Outcome | Need:
        stage, silo = self.stage, self.member.name
        blobs = {digest: stage.work.blobs[digest] for digest in inline}
        left = stage.deadline.left()
        item = WorkItem(
            session_id=stage.session_id,
            stage=stage.work.stage,
            silo=silo,
            coordinator_id=stage.transport.coordinator_id,
            clients=self.clients,
            ops=self.ops,
            incoming={digest: len(stage.work.blobs[digest]) for digest in incoming},
            timeout=left,
            lease=left + LEASE_SLACK,
            ends_session=stage.work.last,
            defer_above=allowance,
            computation=printable(stage.work.computation, MAX_COMPUTATION_NAME),
            masking=stage.request,
        )
        self.timings.asked += 1
        self.timings.bytes_out += self._size(inline)
        try:
            async with stage.transport.start_request(item, blobs, stage.deadline, unread=pickup) as pending:
                reply = await pending.next_response()
                self.timings.replied = time.monotonic()
                if isinstance(reply, Done):
                    reply = await self._with_results(pending, reply)
            if isinstance(reply, Dead):
                return Lost(silo, reply.reason)
            if isinstance(reply, Done):
                if (failure := await self._check_outputs(reply)) is not None:
                    return failure
                self.timings.fetched = time.monotonic()
                if stage.journal is not None:
                    await stage.journal.record_answer(stage.work.stage, silo, self.outputs)
                stage.blob_index.add(self.member, item.blobs)
        except (DeadlineExceeded, TimeoutError):
            return Lost(silo, "time")
        if isinstance(reply, Need) and not stage.work.blobs.keys() >= set(reply.digests):
            return self.failed("refused", "it asked for blobs that it was never to have", "see its log")
        return reply

    async def _check_outputs(self, reply: Done) -> Failed | None:
        """Return the failure of a silo whose outputs are not the requested ones; None if they are."""
        if [len(output) for output in self.outputs] != [size for _, size in reply.outputs]:
            return self._invalid("an output is not of the size that was announced")
        clear, work = self.clear_outputs, self.stage.work
        try:
            if sum(map(len, clear)) > CHECK_IN_THREAD_BYTES:
                await asyncio.to_thread(work.check, clear, self.clients)
            else:
                work.check(clear, self.clients)
        except WireError as error:
            return self._invalid(error.what, error.hint)
        except Exception as error:  # a gap in our own checks: still the failure of this silo alone
            _log.exception("reply_check_failed", session=self.stage.session_id, silo=self.member.name)
            return self._invalid(f"it cannot be read ({type(error).__name__})")
        return await self._check_masked() or await self._read_sequences()

    @property
    def clear_outputs(self) -> Sequence[Buffer]:
        """The outputs that are not masked."""
        return self.outputs if self.stage.work.masking is None else self.outputs[:-1]

    async def _check_masked(self) -> Failed | None:
        """Return the failure of a silo whose masked values cannot be added to those of the others."""
        masking = self.stage.work.masking
        if masking is None:
            return None
        masked = self.outputs[-1]
        try:
            if len(masked) > CHECK_IN_THREAD_BYTES:
                shapes = await asyncio.to_thread(masking.total.check, masked)
            else:
                shapes = masking.total.check(masked)
            masking.check_shapes(shapes)
            masking.total.expect(self.member.name, shapes)
        except (MaskingError, WireError) as error:
            return self._invalid(error.what, error.hint)
        return None

    async def _read_sequences(self) -> Failed | None:
        """Return the failure of a silo whose outputs cannot be read, or not in time; None if they can."""
        if self.stage.work.read is None:
            return None
        seconds = READING_SHARE * self.stage.deadline.left()
        try:
            async with asyncio.timeout(seconds):
                await self.stage.work.read(self.member.name, self.clear_outputs)
        except WireError as error:
            return self._invalid(error.what, error.hint)
        except ComputationFailed as error:
            return self._invalid(f"a sequence in it cannot be read: {error.what[:MAX_ERROR_CHARS]}", _SEQUENCE)
        except TimeoutError:
            return self._invalid(f"a sequence in it was not read within {seconds_text(seconds)}", _SLOW)
        return None

    def _check_announcement(self, reply: Done) -> Failed | None:
        """Return the failure of a silo that announces outputs other than the requested ones, which are not awaited."""
        work, count = self.stage.work, len(reply.outputs)
        expected = None if work.outputs is None else work.outputs + (work.masking is not None)
        if count != expected and (expected is not None or (work.masking is not None and count == 0)):
            return self._invalid(f"{count} outputs, and not {expected}")
        if any(size > self.stage.limits.max_blob for _, size in reply.outputs):
            return self._invalid(f"an output of more than {self.stage.limits.max_blob} bytes (max_blob)", _LARGE)
        return None

    def _invalid(self, why: str, hint: str = "use the same version at both ends, or see its log") -> Failed:
        self.outputs = ()
        return self.failed("refused", f"its reply is invalid: {why}", hint)

    def _recorded_reply(self, outputs: Sequence[Buffer]) -> Done:
        """Return the reply of a silo that had answered before we were killed."""
        self.timings.replied = self.timings.fetched = self.timings.started
        sizes = tuple((digest_of(output), len(output)) for output in outputs)
        return Done(self.stage.session_id, self.stage.work.stage, self.member.name, self.member.incarnation, sizes, 0.0)

    async def _with_results(self, pending: PendingRequest, reply: Done) -> Reply:
        """Wait for results that are not in the reply. Another reply to the work item replaces this one.

        The other reply is the broker's notice that the item is dead, or comes from the incarnation that got it next.
        """
        for _ in range(MAX_RESULT_ATTEMPTS):
            if (failure := self._check_announcement(reply)) is not None:
                return failure
            if not reply.deferred and all(digest in self.stage.transport.results for digest, _ in reply.outputs):
                await self._receive(reply)
                return reply
            uploading, answering = (
                asyncio.create_task(self._upload(reply)),
                asyncio.create_task(pending.next_response()),
            )
            try:
                await asyncio.wait((uploading, answering), return_when=asyncio.FIRST_COMPLETED)
                if uploading.done():
                    return await uploading
                answer = await answering
            finally:
                uploading.cancel()
                answering.cancel()
                await asyncio.gather(uploading, answering, return_exceptions=True)
            if not isinstance(answer, Done):
                return answer
            reply = answer
        return self.failed("lost", f"it announced its results {MAX_RESULT_ATTEMPTS} times", "see its log")

    async def _upload(self, reply: Done) -> Done:
        """Wait for the results. If the silo holds them, tell it to upload them when room is left."""
        if not reply.deferred:
            await self._receive(reply)
            return reply
        digests = [digest for digest, _ in reply.outputs]
        async with asyncio.timeout(self.stage.deadline.left()):
            size = sum(size for _, size in reply.outputs)
            await self.stage.work.merges.announce(self.member.name, self.slot, size).granted.wait()
        with self.stage.transport.results.pinned(digests):
            await self.stage.transport.fetch(reply.silo, reply.session_id, reply.stage, reply.incarnation)
            await self._receive(reply)
        for digest in digests:
            self.stage.transport.results.spent(digest)
        return reply

    async def _receive(self, reply: Done) -> None:
        """Wait for results that the silo is sending."""
        results, size = self.stage.transport.results, sum(size for _, size in reply.outputs)
        digests = [digest for digest, _ in reply.outputs]
        with tracing.span("transfer", what="results", bytes=size), results.pinned(digests):
            self.outputs = [await results.get(digest, self.stage.deadline, RESULT_PATIENCE) for digest in digests]

    def _size(self, digests: Sequence[Digest]) -> int:
        return sum(len(self.stage.work.blobs[digest]) for digest in digests)

    def failed(self, kind: Literal["lost", "refused"], cause: str, hint: str) -> Failed:
        """Return the outcome of this silo as one that failed."""
        member = self.member
        return Failed(self.stage.session_id, self.stage.work.stage, member.name, member.incarnation, kind, cause, hint)
