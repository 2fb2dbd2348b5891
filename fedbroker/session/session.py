"""One session: a frozen membership, its client stages one after another, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import JournalError, MaskingError
from fedbroker.masking.request import MaskingRequest, decode_request, encode_request
from fedbroker.session.journal import SessionJournal
from fedbroker.session.masking import mask_members, masking_request
from fedbroker.session.ports import SessionTransport, StageWork
from fedbroker.session.report import Recorder, SessionReport
from fedbroker.session.roster import BlobCacheIndex, Member
from fedbroker.session.stage_runner import StageRunner
from fedbroker.session.stage_state import Policy
from fedbroker.trust.keys import Public
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["Session"]

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
        request = await self._masking_request(work)
        participants = await StageRunner(self, work, request).run()
        if self.journal is not None:
            await self.journal.record_closed(work.stage, participants)
        return participants

    async def _masking_request(self, work: StageWork) -> MaskingRequest | None:
        """Return the request for masked sums over the present members; None if nothing is masked.

        After we were killed in this stage, it is the request of before, whose masks the silos have used.
        """
        if work.masking is None:
            return None
        recorded = None if self.journal is None else self.journal.masking(work.stage)
        if recorded is not None:
            request = decode_request(recorded)
            if (request.work, request.outputs) != (work.masking.work, work.masking.outputs):
                error = MaskingError(f"the masked sum of client stage {work.stage} was of other work", hint=_AGAIN)
                error.retryable = True  # with a new session
                raise error
            return request
        members = mask_members(self.members, self.recorder.report.cohort, self.silo_keys)
        request = masking_request(members, self.clients, work.masking, dropouts=self.policy.stragglers != "fail")
        if self.journal is not None:
            await self.journal.record_masking(work.stage, encode_request(request))
        return request

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


_AGAIN: Final = "call again: the session could not be resumed"
