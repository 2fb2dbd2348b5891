"""Runs one client stage: a request to each silo, uploads of blobs, late joiners, and masked sums."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, MaskingError, StragglerTimeout
from fedbroker.masking.offers import threshold_of
from fedbroker.masking.request import MaskingRequest
from fedbroker.session.dropout_rounds import OFFER_SHARE, DropoutRounds
from fedbroker.session.masked_stage import MaskedStage
from fedbroker.session.merge_scheduler import upload_allowance
from fedbroker.session.ports import StageWork
from fedbroker.session.report import RequestTimings
from fedbroker.session.roster import Member, ship
from fedbroker.session.silo_request import SiloRequest, StageContext
from fedbroker.session.stage_state import Close, Fail, Outcome, StageState, TooLate, Wait, replaceable
from fedbroker.wire.messages import Done, Op, blobs_of

if TYPE_CHECKING:
    from fedbroker.session.session import Session

__all__ = ["StageRunner"]

LATENESS: Final = 0.5
"""Seconds beyond the deadline in which replies and dead letters that were sent before it may still arrive."""

PICKUP_SHARE: Final = 0.5
"""Share of the stage's time in which silos must pick up their work, if late joiners may replace them: the rest of the
time is the late joiner's."""


class StageRunner:
    """Runs one client stage: a request to each silo, uploads of blobs, and late joiners.

    :class:`fedbroker.session.stage_state.StageState` decides; the event loop runs one task at a time, so outcomes are
    handled one after another.
    """

    def __init__(self, session: Session, work: StageWork, request: MaskingRequest | None = None) -> None:
        self._session = session
        needed = session.policy.needed(len(session.membership))
        self._masked: MaskedStage | None = None
        if request is not None:
            assert work.masking is not None
            needed = max(needed, threshold_of(len(request.members)))
            self._masked = MaskedStage(session, work.stage, work.masking.total, request, needed, self._on_invalid)
            work = replace(work, blobs={**work.blobs, self._masked.digest: self._masked.blob})
        self._work = work
        self._deadline = Deadline.after(session.stage_timeout).earlier(session.deadline)
        seconds = self._deadline.left()
        self._state = StageState(
            session.session_id,
            work.stage,
            [member.name for member in session.members],
            needed,
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

    async def run(self) -> tuple[str, ...]:
        """See :meth:`Session.run_stage`."""
        session, state = self._session, self._state
        with tracing.span(
            "client stage", session=session.session_id, stage=state.stage, silos=len(state.silos)
        ) as span:
            session.recorder.stage_started(
                state.stage, state.silos, state.seconds, state.needed, masked=self._masked is not None
            )
            try:
                with nullcontext() if self._masked is None else self._masked.replies():
                    await self._run_tasks()
                    if self._masked is not None:
                        await self._masked.finish(state.participants, self._deadline.left())
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
                    "" if self._masked is None else self._masked.digest,
                )
                self._start(stage, session.members, self._work.ops)
                if self._masked is not None and self._masked.rounds is not None:
                    stage.start_task(self._share(self._masked.rounds))
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
        masking = () if self._masked is None else (self._masked.digest,)
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
        if isinstance(outcome, Done) and self._masked is not None and not self._masked.expects(silo):
            outcome = request.failed("refused", "it replied before the silos of the masked sum were known", _LOG)
        if not self._state.settle(silo, outcome, time.monotonic()):
            return
        self._session.recorder.silo_ended(request.timings, outcome)
        if isinstance(outcome, Done):
            clear, masked = request.clear_outputs, request.outputs[-1:]
            request.outputs = ()
            merges.arrive(silo, self._work.accept(silo, clear), sum(map(len, clear)))
            if self._masked is not None:
                merges.hold(len(masked[0]))
                # Not among the stage's tasks, which are cancelled when it closes: this silo's values count.
                digest, _ = outcome.outputs[-1]
                request.stage.task_group.create_task(self._masked.add(silo, digest, masked[0], merges))
        else:
            merges.drop(silo)
            self._session.drop(request.member)
            if self._replaces and replaceable(outcome):
                self._state.offer(silo)
                request.stage.start_task(self._recruit(request.stage, silo))
        merges.advance(self._state.advance())
        if self._masked is not None and self._masked.rounds is not None:
            self._masked.rounds.notify()
        self._changed.set()

    async def _share(self, rounds: DropoutRounds) -> None:
        """Fix the silos that share the masked sum, go on without the others, and tell each what it needs."""
        left = self._deadline.left()
        until = time.monotonic() + OFFER_SHARE * left
        sharing = await rounds.fix_sharing(lambda: self._state.pending, until, self._session.policy.grace)
        for silo in self._state.pending:
            if silo not in sharing:
                self._settle(self._requests[silo], TooLate(silo))
                self._asking[silo].cancel()
        await rounds.send_sharing(lambda: self._state.pending)

    def _on_invalid(self, silo: str, error: MaskingError) -> None:
        """Drop a silo that fails at a step of the masked sum, if its part in the stage has not ended."""
        self._session.recorder.emit("masking_failed", silo, why=error.what)
        if silo in self._state.pending:
            request = self._requests[silo]
            self._settle(request, request.failed("refused", error.what, error.hint))
            self._asking[silo].cancel()

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
        masking = None if self._masked is None else self._masked.report
        session.recorder.stage_finished(state.asked, state.needed, merges.merge_order(participants), error, masking)
        if error is None:
            session.continue_with([self._requests[silo].member for silo in participants])


_LOG: Final = "use the same version at both ends, or see its log"
