"""One session: a frozen membership, its client stages one after another, and its end.

A client stage is a request per silo and the uploads of blobs. Its events are handled one after another;
:class:`fedbroker.session.stage_state.StageState` decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, JournalError
from fedbroker.session.journal import SessionJournal
from fedbroker.session.merge_scheduler import ReplyCollector, unasked
from fedbroker.session.ports import SessionTransport, StageWork
from fedbroker.session.report import Recorder, RequestTimings, SessionReport
from fedbroker.session.roster import BlobCacheIndex, Member, needs, ship
from fedbroker.session.silo_request import SiloRequest
from fedbroker.session.stage_state import Close, Fail, Outcome, Policy, StageState, Wait, replaceable
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Digest, Done, Op

__all__ = ["Session"]

GOODBYE_SECONDS = 5.0
"""Seconds to wait for notices to dropped silos: a session must not hang at its end because of the broker."""


@dataclass
class Session:
    """A running session.

    Attributes:
        id: unique id of the session in logs and on the wire.
        lane: transport to the silos.
        known: index of the blobs that each silo has.
        frozen: the membership at the start.
        clients: number of clients of each member.
        stage_timeout: seconds for each client stage.
        deadline: deadline of the whole invocation.
        policy: treatment of silos that do not answer.
        late_joiner: waits for a silo that fits.
        recorder: record of the session for its report and the log.
        journal: record to resume from after being killed; None without a journal.
        members: present participants, in the order in which partials are merged.
    """

    id: str
    lane: SessionTransport
    known: BlobCacheIndex
    frozen: Sequence[Member]
    clients: Mapping[str, int]
    stage_timeout: float
    deadline: Deadline = field(default_factory=Deadline.never)
    policy: Policy = field(default_factory=Policy)
    late_joiner: Callable[[Callable[[Member], bool]], Awaitable[Member]] | None = None
    recorder: Recorder = field(default_factory=lambda: Recorder(SessionReport(session="", cohort="", members=())))
    limits: Limits = DEFAULT_LIMITS
    journal: SessionJournal | None = None
    members: Sequence[Member] = field(init=False)
    _met: dict[str, str] = field(init=False)  # silo: incarnation
    _dismissed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])  # silo and incarnation
    _goodbyes: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        self.members = tuple(self.frozen)
        self.clients = dict(self.clients)
        self._met = {member.name: member.incarnation for member in self.frozen}

    @property
    def participants(self) -> tuple[str, ...]:
        """The names of the present participants, in membership order."""
        return tuple(member.name for member in self.members)

    async def run_stage(self, work: StageWork) -> tuple[str, ...]:
        """Ask every member, and wait for their replies as the policy says. A dropped silo does not take part again.

        Returns:
            The participants, in membership order; ``work.take`` was called with the outputs of each.

        Raises:
            SiloError: too few silos are left because a silo failed; with the silo's reason.
            StragglerTimeout: the stage's time was up; names the silos that did not answer.
            BrokerError: the broker went away and did not come back in time.
        """
        return await run_stage(self, work)

    def go_on_with(self, members: Sequence[Member]) -> None:
        """Continue with the members that answered the stage; tell the others that the session is over for them."""
        left = {member.name for member in members}
        for member in self.members:
            if member.name not in left:
                self.dismiss(member)
        self.members = tuple(members)

    def dismiss(self, member: Member) -> None:
        """Tell a silo, without waiting, that the session is over for it."""
        one = member.name, member.incarnation
        if one in self._dismissed:
            return
        self._dismissed.add(one)
        task = asyncio.create_task(self.lane.end_session(member.name, self.id, member.incarnation))
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)

    def has_met(self, member: Member) -> bool:
        """Return whether this incarnation, or a participant of this name, was asked before: it cannot join again."""
        return self._met.get(member.name) == member.incarnation or member.name in self.participants

    def take_in(self, newcomer: Member, clients: int) -> None:
        """Add a late joiner."""
        self._met[newcomer.name] = newcomer.incarnation
        self.clients = {**self.clients, newcomer.name: clients}

    async def close(self, error: BaseException | None = None) -> None:
        """End the session, successfully or, with an ``error``, before its last stage. Bounded in time.

        It need not reach the broker: silos forget a session that they hear nothing of.
        """
        self.recorder.finished(error)
        if self.journal is not None and isinstance(error, JournalError):
            # Leave everything as if we were killed: silos, too, keep their values for a while, to be resumed.
            await asyncio.to_thread(self.journal.leave)
            error = None
        elif self.journal is not None:
            await asyncio.to_thread(self.journal.forget)
        if error is not None:
            for member in self.members:
                self.dismiss(member)
        if self._goodbyes:
            await asyncio.wait(self._goodbyes, timeout=GOODBYE_SECONDS)
        for task in list(self._goodbyes):
            task.cancel()


LATENESS = 0.5
"""Seconds beyond the deadline in which replies and dead letters that were sent before it may still arrive."""

PICKUP_SHARE = 0.5
"""Share of the stage's time in which silos must pick up their work, if late joiners may replace them: the rest of the
time is the late joiner's."""


async def _to_its_end(stage: _Stage) -> None:
    try:
        await stage.run()
    except FedbrokerError as error:
        stage.record(error)
        raise
    finally:
        await stage.stop()
    stage.record()


@dataclass(frozen=True, slots=True)
class _Ended:
    member: Member
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Joined:
    member: Member
    program: tuple[Op, ...]
    in_place_of: str


_Happening: TypeAlias = _Ended | _Joined | BaseException


async def run_stage(session: Session, work: StageWork) -> tuple[str, ...]:
    """See :meth:`fedbroker.session.session.Session.run_stage`."""
    closed = session.journal.participants(work.stage) if session.journal is not None else None
    if closed is not None:  # closed before we were killed: the silos dropped then stay dropped
        session.go_on_with([member for member in session.members if member.name in closed])
    stage = _Stage(session, work)
    with tracing.span("client stage", session=session.id, stage=work.stage, silos=len(session.members)) as span:
        try:
            await _to_its_end(stage)
        finally:
            stage.requests.clear()  # break the reference cycle: models would stay in memory until garbage collection
        span.set(participants=len(stage.state.participants))
    if session.journal is not None and closed is None:
        await session.journal.record_closed(work.stage, stage.state.participants)
    return stage.state.participants


class _Stage:
    def __init__(self, session: Session, work: StageWork) -> None:
        self.session = session
        self.work = work
        self.deadline = Deadline.after(session.stage_timeout).earlier(session.deadline)
        seconds = self.deadline.left()
        self.state = StageState(
            session.id,
            work.stage,
            [member.name for member in session.members],
            session.policy.needed(len(session.frozen)),
            round(seconds, 3),
            self.deadline.at + LATENESS,
            session.policy.grace,
        )
        self.collector = ReplyCollector(self.state, session.policy.merge_order, work.take)
        self.requests: dict[str, SiloRequest] = {}
        self._happenings: asyncio.Queue[_Happening] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Run until the stage is over; raises its error if it fails."""
        session = self.session
        session.recorder.stage_started(self.work.stage, self.state.silos, self.state.seconds)
        self._ask(session.members, self.work.programs)
        while True:
            match self.state.verdict(time.monotonic()):
                case Close():
                    return
                case Fail(error):
                    raise error
                case Wait(until):
                    await self._next(until)

    async def stop(self) -> None:
        """Cancel all running tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def record(self, error: FedbrokerError | None = None) -> None:
        """Record the late silos and the end of the stage, and drop the silos that did not answer from the session."""
        for silo, outcome in self.state.close(time.monotonic()).items():
            self.session.recorder.silo_ended(self.requests[silo].talk, outcome)
        if error is None:
            self.collector.look()  # merge outputs that waited for silos which are dropped now
        order = self.collector.merge_order()
        self.session.recorder.stage_finished(self.state.asked, self.state.needed, order, error)
        if error is None:
            members = {silo: request.member for silo, request in self.requests.items()}
            self.session.go_on_with([members[silo] for silo in self.state.participants])

    def _ask(self, members: Sequence[Member], programs: Mapping[str, tuple[Op, ...]], in_place_of: str = "") -> None:
        """Start a request to each silo, and the transfers that the requests wait for."""
        session, work = self.session, self.work
        sizes = {digest: len(blob) for digest, blob in work.blobs.items()}
        shipment = ship(programs, sizes, members, session.known, session.limits)
        for member in members:
            request = SiloRequest(
                session=session.id,
                lane=session.lane,
                known=session.known,
                work=work,
                program=programs[member.name],
                member=member,
                clients=session.clients[member.name],
                inline=shipment.inline[member.name],
                bulk=shipment.on_bulk_lane(member.name, needs(programs[member.name])),
                deadline=self.deadline,
                unread=None if in_place_of else self._pickup(),
                talk=RequestTimings(member.name, member.incarnation, in_place_of),
                send=partial(self._send, silo=member.name),
                turn=partial(self.collector.turn, member.name),
                hold=unasked(len(session.frozen), session.limits.held_results),
                limits=session.limits,
                journal=session.journal,
            )
            self.requests[member.name] = request
            self._spawn(self._converse(request))
        self._send(shipment.broadcast, None)
        for silo, own in shipment.direct.items():
            self._send(own, silo)

    def _pickup(self) -> Deadline | None:
        """Return the deadline for picking up work, which leaves time for late joiners; None if they cannot join."""
        if not self._replaces:
            return None
        return Deadline.after(PICKUP_SHARE * self.deadline.left())

    @property
    def _replaces(self) -> bool:
        return self.session.policy.stragglers == "replace" and self.work.enlist is not None

    async def _converse(self, request: SiloRequest) -> None:
        self._happenings.put_nowait(_Ended(request.member, await request.run()))

    def _send(self, digests: Sequence[Digest], silo: str | None) -> None:
        """Start sending blobs in the background."""
        self._spawn(self._ship(digests, silo))

    async def _ship(self, digests: Sequence[Digest], silo: str | None) -> None:
        """Send blobs on the bulk lane, one after another, to one silo or (None) to the cohort."""
        for digest in digests:
            blob = self.work.blobs[digest]
            with tracing.span("transfer", what="blob", bytes=len(blob), silo=silo or "*"):
                await self.session.lane.send_blob(
                    digest, blob, silo=silo, deadline=self.deadline, session_id=self.session.id
                )

    async def _recruit(self, straggler: str) -> None:
        """Wait for a late joiner that can replace a straggler."""
        session, enlist = self.session, self.work.enlist
        assert session.late_joiner is not None
        assert enlist is not None
        enlisted = None

        def fits(member: Member) -> bool:
            nonlocal enlisted
            enlisted = None if session.has_met(member) else enlist(member, straggler)
            return enlisted is not None

        newcomer = await session.late_joiner(fits)
        assert enlisted is not None
        session.take_in(newcomer, enlisted.clients)
        self._happenings.put_nowait(_Joined(newcomer, enlisted.program, straggler))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background; its exception ends the stage."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._happenings.put_nowait(error)

    async def _next(self, until: float) -> None:
        """Handle the next event, or return at the time at which the state machine decides again."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                happening = await self._happenings.get()
        except TimeoutError:
            return
        match happening:
            case _Ended(member, outcome):
                self._on_ended(member, outcome)
            case _Joined(member, program, straggler):
                self.state.fill_slot(member.name, straggler)
                self.session.recorder.emit("late_joiner_added", member.name, in_place_of=straggler)
                self._ask([member], {member.name: program}, straggler)
            case BaseException() as error:
                raise error  # a failed transfer or a lost broker ends the stage here

    def _on_ended(self, member: Member, outcome: Outcome) -> None:
        if not self.state.settle(member.name, outcome, time.monotonic()):
            return
        request = self.requests[member.name]
        self.session.recorder.silo_ended(request.talk, outcome)
        if isinstance(outcome, Done):
            outputs, request.outputs = request.outputs, ()
            self.collector.here(member.name, outputs)
            return
        self.session.dismiss(member)
        if self._replaces and replaceable(outcome):
            self.state.offer(member.name)
            self._spawn(self._recruit(member.name))
        self.collector.gone(member.name)
