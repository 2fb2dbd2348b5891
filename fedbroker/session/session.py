"""One session: a frozen membership, its client stages one after another, and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Final

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, JournalError, MaskingError, StragglerTimeout
from fedbroker.masking.offers import threshold_of
from fedbroker.masking.request import MaskingRequest, encode_request
from fedbroker.session.dropout_rounds import OFFER_SHARE, DropoutRounds
from fedbroker.session.journal import SessionJournal
from fedbroker.session.masking import MaskedTotal, mask_members, masking_request
from fedbroker.session.merge_scheduler import upload_allowance
from fedbroker.session.ports import SessionTransport, StageWork
from fedbroker.session.report import Recorder, RequestTimings, SessionReport
from fedbroker.session.roster import BlobCacheIndex, Member, ship
from fedbroker.session.silo_request import CHECK_IN_THREAD_BYTES, SiloRequest, StageContext
from fedbroker.session.stage_state import Close, Fail, Outcome, Policy, StageState, TooLate, Wait, replaceable
from fedbroker.trust.keys import Public
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Done, Op, OptionalDigest, blobs_of

__all__ = ["Session", "StageRunner"]

LATENESS: Final = 0.5
"""Seconds beyond the deadline in which replies and dead letters that were sent before it may still arrive."""

PICKUP_SHARE: Final = 0.5
"""Share of the stage's time in which silos must pick up their work, if late joiners may replace them: the rest of the
time is the late joiner's."""

END_NOTICE_SECONDS: Final = 5.0
"""Seconds to wait for notices to dropped silos: a session must not hang at its end because of the broker."""


@dataclass
class Session:
    """A running session.

    Attributes:
        session_id: unique id of the session in logs and on the wire.
        transport: transport to the silos.
        blob_index: the blobs that each silo has.
        membership: the membership at the start.
        clients: number of clients of each member.
        stage_timeout: seconds for each client stage.
        deadline: deadline of the whole invocation.
        policy: treatment of silos that do not answer.
        late_joiner: waits for a silo that fits.
        recorder: record of the session for its report and the log.
        journal: record to resume from after being killed; None without a journal.
        silo_keys: the public keys of the cohort's silos, for masked sums; none without keys.
        members: present participants, in the order in which partials are merged.
    """

    session_id: str
    transport: SessionTransport
    blob_index: BlobCacheIndex
    membership: Sequence[Member]
    clients: Mapping[str, int]
    stage_timeout: float
    deadline: Deadline = field(default_factory=Deadline.never)
    policy: Policy = field(default_factory=Policy)
    late_joiner: Callable[[Callable[[Member], bool]], Awaitable[Member]] | None = None
    recorder: Recorder = field(default_factory=lambda: Recorder(SessionReport(session="", cohort="", members=())))
    limits: Limits = DEFAULT_LIMITS
    journal: SessionJournal | None = None
    silo_keys: Mapping[str, Public] = field(default_factory=dict[str, Public])
    members: Sequence[Member] = field(init=False)
    _asked: dict[str, str] = field(init=False)  # silo: incarnation
    _dropped: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])  # silo and incarnation
    _end_notices: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.members = tuple(self.membership)
        self.clients = dict(self.clients)
        self._asked = {member.name: member.incarnation for member in self.membership}

    @property
    def participants(self) -> tuple[str, ...]:
        """The names of the present participants, in membership order."""
        return tuple(member.name for member in self.members)

    async def run_stage(self, work: StageWork) -> tuple[str, ...]:
        """Ask every member, and wait for their replies as the policy says. A dropped silo does not take part again.

        Returns:
            The participants, in membership order; ``work.merges`` has the partials of each.

        Raises:
            SiloError: too few silos are left because a silo failed; with the silo's reason.
            StragglerTimeout: the stage's time was up; names the silos that did not answer.
            MaskingError: the members cannot form a masked sum; nothing was sent.
            BrokerError: the broker went away and did not come back in time.
        """
        closed = self.journal.participants(work.stage) if self.journal is not None else None
        if closed is not None:  # closed before we were killed: the silos dropped then stay dropped
            self.continue_with([member for member in self.members if member.name in closed])
        request = self._masking_request(work)
        participants = await StageRunner(self, work, request).run()
        if self.journal is not None and closed is None:
            await self.journal.record_closed(work.stage, participants)
        return participants

    def _masking_request(self, work: StageWork) -> MaskingRequest | None:
        """Return the request for masked sums over the present members; None if nothing is masked."""
        if work.masking is None:
            return None
        members = mask_members(self.members, self.recorder.report.cohort, self.silo_keys)
        return masking_request(members, self.clients, work.masking, dropouts=self.policy.stragglers != "fail")

    def continue_with(self, members: Sequence[Member]) -> None:
        """Continue with the members that answered the stage; tell the others that the session is over for them."""
        remaining = {member.name for member in members}
        for member in self.members:
            if member.name not in remaining:
                self.drop(member)
        self.members = tuple(members)

    def drop(self, member: Member) -> None:
        """Tell a silo, without waiting, that the session is over for it."""
        incarnation = member.name, member.incarnation
        if incarnation in self._dropped:
            return
        self._dropped.add(incarnation)
        task = asyncio.create_task(self.transport.end_session(member.name, self.session_id, member.incarnation))
        self._end_notices.add(task)
        task.add_done_callback(self._end_notices.discard)

    def was_asked(self, member: Member) -> bool:
        """Return whether this incarnation, or a participant of this name, was asked before: it cannot join again."""
        return self._asked.get(member.name) == member.incarnation or member.name in self.participants

    def add_member(self, newcomer: Member, clients: int) -> None:
        """Add a late joiner."""
        self._asked[newcomer.name] = newcomer.incarnation
        self.clients = {**self.clients, newcomer.name: clients}

    async def close(self, error: BaseException | None = None) -> None:
        """End the session, successfully or, with an ``error``, before its last stage. Bounded in time.

        It need not reach the broker: silos forget a session that they hear nothing of.
        """
        self.recorder.finished(error)
        if self.journal is not None and isinstance(error, JournalError):
            # Leave everything as if we were killed: silos, too, keep their values for a while, to be resumed.
            await asyncio.to_thread(self.journal.release)
            error = None
        elif self.journal is not None:
            await asyncio.to_thread(self.journal.forget)
        if error is not None:
            for member in self.members:
                self.drop(member)
        if self._end_notices:
            await asyncio.wait(self._end_notices, timeout=END_NOTICE_SECONDS)
        for task in list(self._end_notices):
            task.cancel()


class StageRunner:
    """Runs one client stage: a request to each silo, uploads of blobs, and late joiners.

    :class:`fedbroker.session.stage_state.StageState` decides; the event loop runs one task at a time, so outcomes are
    handled one after another.
    """

    def __init__(self, session: Session, work: StageWork, request: MaskingRequest | None = None) -> None:
        self._session = session
        self._work = work
        self._request: OptionalDigest = ""
        if request is not None:
            encoded = encode_request(request)
            self._request = digest_of(encoded)
            self._work = replace(work, blobs={**work.blobs, self._request: encoded})
        self._adding = asyncio.Lock()  # one silo's masked values at a time
        self._deadline = Deadline.after(session.stage_timeout).earlier(session.deadline)
        seconds = self._deadline.left()
        self._state = StageState(
            session.session_id,
            work.stage,
            [member.name for member in session.members],
            self._needed(request),
            round(seconds, 3),
            self._deadline.at + LATENESS,
            session.policy.grace,
        )
        # All silos of a masked sum already have the list of its members: no silo can join it.
        self._replaces = session.policy.stragglers == "replace" and work.enlist is not None and request is None
        # Silos that may be replaced must pick up their work early enough to leave time for a late joiner.
        self._pickup = Deadline.after(PICKUP_SHARE * seconds) if self._replaces else None
        self._requests: dict[str, SiloRequest] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._rounds: DropoutRounds | None = None
        if request is not None and request.dropouts:
            self._rounds = DropoutRounds(
                session.session_id,
                work.stage,
                session.transport,
                request,
                session.silo_keys,
                self._state.needed,
                self._on_masks,
            )

    def _needed(self, request: MaskingRequest | None) -> int:
        """Return the number of silos that must answer."""
        session = self._session
        needed = session.policy.needed(len(session.membership))
        return max(needed, threshold_of(len(session.members))) if request is not None else needed

    async def run(self) -> tuple[str, ...]:
        """See :meth:`Session.run_stage`."""
        session, state = self._session, self._state
        with tracing.span(
            "client stage", session=session.session_id, stage=state.stage, silos=len(state.silos)
        ) as span:
            session.recorder.stage_started(state.stage, state.silos, state.seconds)
            try:
                with self._mask_replies():
                    await self._run_tasks()
                    await self._unmask()
                self._finish()
            except FedbrokerError as error:
                if isinstance(error, StragglerTimeout) and (trouble := await session.transport.trouble()) is not None:
                    error.because(trouble)  # silos cannot answer through a broker that accepts no messages
                self._finish(error)
                raise
            finally:
                self._asking.clear()
                self._requests.clear()  # break the reference cycle: it would keep models until a garbage collection
            span.set(participants=len(state.participants))
        return state.participants

    async def _run_tasks(self) -> None:
        """Run the stage's tasks until it is over; raises its error if it fails."""
        session, over = self._session, False
        error: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                stage = StageContext(
                    session.session_id,
                    session.transport,
                    session.blob_index,
                    session.limits,
                    session.journal,
                    self._work,
                    self._deadline,
                    tasks,
                    self._request,
                )
                self._start(stage, session.members, self._work.ops)
                if self._rounds is not None:
                    stage.start_task(self._share(stage, self._rounds))
                error, over = await self._verdict(), True
                for task in stage.tasks:
                    task.cancel()
        except BaseExceptionGroup as group:
            if not over:  # a failed upload or a lost broker ends the stage, too
                error = group.exceptions[0]
        if error is not None:
            raise error

    async def _verdict(self) -> FedbrokerError | None:
        """Wait until the stage is over, and return its error if it has failed."""
        while True:
            match self._state.verdict(now := time.monotonic()):
                case Close():
                    return None
                case Fail(error):
                    return error
                case Wait(until):
                    self._changed.clear()
                    try:
                        async with asyncio.timeout(max(0.0, until - now)):
                            await self._changed.wait()
                    except TimeoutError:
                        pass

    def _start(
        self, stage: StageContext, members: Sequence[Member], ops: Mapping[str, tuple[Op, ...]], in_place_of: str = ""
    ) -> None:
        """Start a request to each silo, and the uploads that the requests wait for."""
        session = self._session
        sizes = {digest: len(blob) for digest, blob in self._work.blobs.items()}
        masking = (self._request,) if self._request else ()
        needs = {member.name: (*blobs_of(ops[member.name]), *masking) for member in members}
        shipment = ship(needs, sizes, members, session.blob_index, session.limits)
        for member in members:
            request = self._requests[member.name] = SiloRequest(
                stage=stage,
                member=member,
                slot=self._state.slots[member.name],
                ops=ops[member.name],
                clients=session.clients[member.name],
                inline=shipment.inline[member.name],
                bulk=shipment.bulk[member.name],
                pickup=None if in_place_of else self._pickup,
                allowance=upload_allowance(len(session.membership), session.limits.held_results),
                timings=RequestTimings(member.name, member.incarnation, in_place_of),
            )
            self._asking[member.name] = stage.start_task(self._ask(request))
        if shipment.broadcast:
            stage.start_task(stage.send_blobs(shipment.broadcast, None))
        for silo, digests in shipment.direct.items():
            if digests:
                stage.start_task(stage.send_blobs(digests, silo))

    async def _ask(self, request: SiloRequest) -> None:
        """Run a request, and record its outcome."""
        self._settle(request, await request.run())

    def _settle(self, request: SiloRequest, outcome: Outcome) -> None:
        """Record the outcome of a silo, and pass its outputs on."""
        silo, merges = request.member.name, self._work.merges
        if self._rounds is not None and isinstance(outcome, Done) and not self._rounds.shares(silo):
            outcome = request.failed("refused", "it replied before the silos of the masked sum were known", _LOG)
        if not self._state.settle(silo, outcome, time.monotonic()):
            return
        self._session.recorder.silo_ended(request.timings, outcome)
        if isinstance(outcome, Done):
            clear, masked = request.clear_outputs, request.outputs[-1:]
            request.outputs = ()
            merges.arrive(silo, self._work.accept(silo, clear), sum(map(len, clear)))
            if (masking := self._work.masking) is not None:
                merges.hold(len(masked[0]))
                # Not among the stage's tasks, which are cancelled when it closes: this silo's values count.
                request.stage.task_group.create_task(self._add(silo, masking.total, masked[0]))
        else:
            merges.drop(silo)
            self._session.drop(request.member)
            if self._replaces and replaceable(outcome):
                self._state.offer(silo)
                request.stage.start_task(self._recruit(request.stage, silo))
        merges.advance(self._state.advance())
        if self._rounds is not None:
            self._rounds.notify()
        self._changed.set()

    async def _share(self, stage: StageContext, rounds: DropoutRounds) -> None:
        """Fix the silos that share the masked sum, go on without the others, and tell each what it needs."""
        left = self._deadline.left()
        until = time.monotonic() + OFFER_SHARE * left
        sharing = await rounds.fix_sharing(lambda: self._state.pending, until, self._session.policy.grace)
        for silo in self._state.pending:
            if silo not in sharing:
                self._settle(self._requests[silo], TooLate(silo))
                self._asking[silo].cancel()
        await rounds.send_sharing(lambda: self._state.pending)

    def _on_masks(self) -> None:
        """Drop silos whose messages of the masked sum are invalid."""
        assert self._rounds is not None
        for silo in self._state.pending:
            if (invalid := self._rounds.invalid(silo)) is not None:
                request = self._requests[silo]
                self._settle(request, request.failed("refused", invalid.what, invalid.hint))
                self._asking[silo].cancel()

    def _mask_replies(self) -> AbstractContextManager[None]:
        """Receive the silos' messages of a masked sum within the block."""
        rounds, session = self._rounds, self._session
        if rounds is None:
            return nullcontext()
        return session.transport.mask_replies(session.session_id, self._state.stage, rounds.receive)

    async def _unmask(self) -> None:
        """Check that the masked sum is over the participants, and remove the masks that do not cancel in it."""
        masking, participants = self._work.masking, self._state.participants
        if masking is None:
            return
        if set(masking.total.silos) != set(participants):
            raise MaskingError("the masked values of a silo were not added", hint="see the log, and call again")
        if self._rounds is not None:
            await self._rounds.remove_masks(participants, masking.total, self._deadline.left())

    async def _add(self, silo: str, total: MaskedTotal, masked: Buffer) -> None:
        """Add a silo's masked values to those of the others, in the order of arrival, and release them."""
        async with self._adding:
            if len(masked) > CHECK_IN_THREAD_BYTES:
                await asyncio.to_thread(total.add, silo, masked)
            else:
                total.add(silo, masked)
        self._work.merges.let_go(len(masked))

    async def _recruit(self, stage: StageContext, straggler: str) -> None:
        """Wait for a late joiner that can replace a straggler, and ask it."""
        session, enlist = self._session, self._work.enlist
        assert session.late_joiner is not None
        assert enlist is not None
        enlisted = None

        def fits(member: Member) -> bool:
            nonlocal enlisted
            enlisted = None if session.was_asked(member) else enlist(member, straggler)
            return enlisted is not None

        newcomer = await session.late_joiner(fits)
        assert enlisted is not None
        session.add_member(newcomer, enlisted.clients)
        self._state.fill_slot(newcomer.name, straggler)
        session.recorder.emit("late_joiner_added", newcomer.name, in_place_of=straggler)
        self._start(stage, [newcomer], {newcomer.name: enlisted.ops}, straggler)
        self._changed.set()

    def _finish(self, error: FedbrokerError | None = None) -> None:
        """Record the pending silos and the stage's end, and drop the silos that did not answer from the session."""
        session, state, merges = self._session, self._state, self._work.merges
        for silo, outcome in state.close(time.monotonic(), failed=error is not None).items():
            session.recorder.silo_ended(self._requests[silo].timings, outcome)
        participants = state.participants
        if error is None:
            merges.advance(state.advance())  # replies that waited for silos which are dropped now
        session.recorder.stage_finished(state.asked, state.needed, merges.merge_order(participants), error)
        if error is None:
            session.continue_with([self._requests[silo].member for silo in participants])


_LOG: Final = "use the same version at both ends, or see its log"
