"""One session: a frozen membership, its client stages one after another, and its end.

Imports the session's own parts, wire and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedbroker.deadline import Deadline
from fedbroker.errors import JournalError
from fedbroker.session.blob_routing import BlobCacheIndex
from fedbroker.session.events import Recorder
from fedbroker.session.journal import SessionJournal
from fedbroker.session.ports import SessionTransport, StageWork
from fedbroker.session.report import SessionReport
from fedbroker.session.roster import Member
from fedbroker.session.stage_runner import run_stage
from fedbroker.session.straggler_policy import Policy
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["Session"]

GOODBYE_SECONDS = 5.0


@dataclass
class Session:
    """A session under way.

    Attributes:
        id: unique; names the session in logs and on the wire.
        lane: to the silos.
        known: which silo has which blobs.
        frozen: the membership at the start.
        clients: how many clients each member holds.
        stage_timeout: seconds for each client stage.
        deadline: of the whole invocation.
        policy: what becomes of silos that do not answer.
        late_joiner: waits for a silo that fits.
        recorder: what is written down for people.
        journal: what is written down to go on after being killed; None where nobody wants that.
        members: who takes part by now, in the order in which partials are merged.
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
    _dismissed: set[tuple[str, str]] = field(default_factory=set)  # silo and incarnation
    _goodbyes: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.members = tuple(self.frozen)
        self.clients = dict(self.clients)
        self._met = {member.name: member.incarnation for member in self.frozen}

    @property
    def participants(self) -> tuple[str, ...]:
        """Who takes part by now, in membership order."""
        return tuple(member.name for member in self.members)

    async def run_stage(self, work: StageWork) -> tuple[str, ...]:
        """Ask every member, wait for their answers as the policy says. Whoever is dropped is out for good.

        Returns:
            The participants, in membership order; ``work.take`` was given the outputs of each.

        Raises:
            SiloError: too few are left, since a silo failed; with its own words.
            StragglerTimeout: the stage's time was up; names who is missing.
            BrokerError: the broker went away and did not come back in time.
        """
        return await run_stage(self, work)

    def go_on_with(self, members: Sequence[Member]) -> None:
        """These answered the stage; the others are told that nothing more will come, so that they stop."""
        left = {member.name for member in members}
        for member in self.members:
            if member.name not in left:
                self.dismiss(member)
        self.members = tuple(members)

    def dismiss(self, member: Member) -> None:
        """Tell a silo, on the side, that nothing more will come."""
        one = member.name, member.incarnation
        if one in self._dismissed:
            return
        self._dismissed.add(one)
        task = asyncio.create_task(self.lane.end_session(member.name, self.id, member.incarnation))
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)

    def has_met(self, member: Member) -> bool:
        """Whether it was ever asked for anything in this session: then it can only disturb."""
        return self._met.get(member.name) == member.incarnation or member.name in self.participants

    def take_in(self, newcomer: Member, clients: int) -> None:
        """A late joiner takes part from now on."""
        self._met[newcomer.name] = newcomer.incarnation
        self.clients = {**self.clients, newcomer.name: clients}

    async def close(self, error: BaseException | None = None) -> None:
        """The session is over, well or, with an ``error``, before its last stage. Bounded in time.

        A broker that is gone does not matter: silos forget a session that they hear nothing of.
        """
        self.recorder.finished(error)
        if self.journal is not None and isinstance(error, JournalError):
            # As if we were killed: the silos, too, keep what they hold for a while.
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
