"""One session: a frozen membership, its client stages one after another, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fedbroker.deadline import Deadline
from fedbroker.errors import JournalError
from fedbroker.session.blob_routing import BlobCacheIndex
from fedbroker.session.journal import SessionJournal
from fedbroker.session.ports import SessionTransport, StageWork
from fedbroker.session.report import Recorder, SessionReport
from fedbroker.session.roster import Member
from fedbroker.session.stage_runner import run_stage
from fedbroker.session.straggler_policy import Policy
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

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
    _dismissed: set[tuple[str, str]] = field(default_factory=set)  # silo and incarnation
    _goodbyes: set[asyncio.Task[None]] = field(default_factory=set)

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
