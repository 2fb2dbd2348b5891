"""One session: a frozen membership, its client stages one after another, and its end.

Drives the state machine of :mod:`fedbroker.session.stage` over the broker. Imports transport, wire and the base.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, FedbrokerError, Missing
from fedbroker.log import get_logger
from fedbroker.session.roster import Member
from fedbroker.session.shipping import Known, needs, ship
from fedbroker.session.stage import FailPolicy, Lost, Outcome, Policy, StageState
from fedbroker.transport.coordinator import Dead
from fedbroker.wire.codec import Buffer
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Digest, Done, Failed, Need, Op, WorkItem

__all__ = ["Lane", "Results", "Session", "StageWork"]

ROUNDS_OF_NEED = 3
"""How often a silo may ask for blobs that it lacks before that counts as a failure."""

RESULT_PATIENCE = 30.0
"""Seconds without any progress on the bulk lane after which a result that was announced counts as lost."""

LEASE_SLACK = 60.0
"""Seconds beyond the stage's own time for which a silo keeps a session that it hears nothing of: server stages."""

GOODBYE_SECONDS = 5.0

_log = get_logger(__name__)


class Results(Protocol):
    """Where blobs from silos arrive."""

    async def get(self, digest: Digest, deadline: Deadline, patience: float) -> Buffer:
        """The blob, once it is whole."""
        ...


class Lane(Protocol):
    """What a session needs of the transport; :class:`fedbroker.transport.coordinator.CoordinatorEnd` has it."""

    @property
    def key(self) -> str:
        """The coordinator's own name in routing keys."""
        ...

    @property
    def results(self) -> Results:
        """Where the silos' blobs arrive."""
        ...

    async def send_blob(self, digest: Digest, data: Buffer, *, silo: str | None, deadline: Deadline) -> None:
        """Send a blob to one silo, or, with None, once to the whole cohort."""
        ...

    async def request(
        self, item: WorkItem, inline: Mapping[Digest, Buffer], deadline: Deadline
    ) -> Done | Failed | Need | Dead:
        """Publish a work item and await the silo's reply, or the broker's word that nobody took it."""
        ...

    async def end_session(self, silo: str, session: str) -> None:
        """Tell a silo to forget a session."""
        ...


@dataclass(frozen=True, slots=True)
class StageWork:
    """What a client stage asks of each silo.

    Attributes:
        level: the stage's number.
        last: no client stage follows.
        programs: for each silo.
        blobs: the content of every digest that the programs name.
    """

    level: int
    last: bool
    programs: Mapping[str, tuple[Op, ...]]
    blobs: Mapping[Digest, Buffer]


@dataclass
class Session:
    """A session under way.

    Attributes:
        id: unique; names the session in logs and on the wire.
        members: frozen, in the order in which partials are merged.
        clients: how many clients each member holds.
        stage_timeout: seconds for each client stage.
    """

    id: str
    lane: Lane
    known: Known
    members: Sequence[Member]
    clients: Mapping[str, int]
    stage_timeout: float
    policy: Policy = field(default_factory=FailPolicy)
    limits: Limits = DEFAULT_LIMITS

    async def run_stage(self, work: StageWork) -> list[list[Buffer]]:
        """Ask every member, wait for all answers.

        Returns:
            For each participant in membership order, its outputs: serialized executor values.

        Raises:
            SiloError: a silo failed, with its own words.
            DeadlineExceeded: the stage's time was up; names who is missing.
            BrokerError: the broker went away and did not come back in time.
        """
        return await _StageRun(self, work).outputs()

    async def abandon(self) -> None:
        """Tell every member that nothing more will come. Bounded in time; a broker that is gone does not matter."""
        goodbyes = (self.lane.end_session(member.name, self.id) for member in self.members)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await asyncio.gather(*goodbyes, return_exceptions=True)


class _StageRun:
    """One client stage under way: a task for each silo, and one for each blob on the bulk lane."""

    def __init__(self, session: Session, work: StageWork) -> None:
        self.session = session
        self.work = work
        self.deadline = Deadline.after(session.stage_timeout)
        sizes = {digest: len(blob) for digest, blob in work.blobs.items()}
        self.shipment = ship(work.programs, sizes, session.members, session.known, session.limits)
        names = tuple(member.name for member in session.members)
        self.state = StageState(session.id, work.level, names, session.stage_timeout)
        self.received: dict[str, list[Buffer]] = {}
        self.resends: list[asyncio.Task[None]] = []
        self.log = _log.bind(session=session.id, stage=work.level)

    async def outputs(self) -> list[list[Buffer]]:
        """See :meth:`Session.run_stage`."""
        self.log.info("stage started", silos=len(self.state.silos), seconds=self.session.stage_timeout)
        asked = {asyncio.create_task(self._converse(member)): member.name for member in self.session.members}
        bulk = [asyncio.create_task(self._ship(self.shipment.broadcast, None))]
        bulk += [asyncio.create_task(self._ship(own, silo)) for silo, own in self.shipment.direct.items() if own]
        try:
            await self._settle(asked, bulk)
        except FedbrokerError as error:
            self.log.warning("stage failed", error=str(error))
            raise
        finally:
            await _cancel([*asked, *bulk, *self.resends])
        self.log.info("stage finished", participants=len(self.state.participants))
        return [self.received[silo] for silo in self.state.participants]

    async def _settle(self, asked: Mapping[asyncio.Task[Outcome], str], bulk: Sequence[asyncio.Task[None]]) -> None:
        waiting: set[asyncio.Task[Outcome] | asyncio.Task[None]] = {*asked, *bulk}
        while self.state.pending:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                outcome = task.result()  # a failed transfer or a lost broker ends the stage here
                if outcome is not None:
                    self.state.settle(outcome.silo, outcome)
            error = self.session.policy.failure(self.state)
            if error is not None:
                raise error

    async def _ship(self, digests: Sequence[Digest], silo: str | None) -> None:
        """Send blobs on the bulk lane, one after another, to one silo or (None) to the cohort."""
        for digest in digests:
            await self.session.lane.send_blob(digest, self.work.blobs[digest], silo=silo, deadline=self.deadline)

    async def _converse(self, member: Member) -> Outcome:
        """One silo's way through the stage, to its outcome."""
        inline = self.shipment.inline[member.name]
        fresh = self.shipment.on_bulk_lane(member.name, needs(self.work.programs[member.name]))
        for _ in range(ROUNDS_OF_NEED):
            outcome = await self._ask(member, inline, fresh)
            if not isinstance(outcome, Need):
                return outcome
            self.log.info("blobs sent again", silo=member.name, count=len(outcome.digests))
            self.session.known.forget(member, outcome.digests)
            small = self.session.limits.inline_blob
            inline = tuple(d for d in outcome.digests if len(self.work.blobs[d]) <= small)
            large = [d for d in outcome.digests if d not in inline]
            # The work item goes ahead of them, so that the silo makes room and keeps what comes first.
            self.resends.append(asyncio.create_task(self._ship(large, member.name)))
            fresh = tuple(dict.fromkeys((*fresh, *large)))
        cause = f"it asked {ROUNDS_OF_NEED} times for blobs that it had been sent"
        return self._failed(member, cause, "give it more room for blobs ([silo] blob_cache_bytes)")

    async def _ask(self, member: Member, inline: Sequence[Digest], fresh: Sequence[Digest]) -> Outcome | Need:
        blobs = {digest: self.work.blobs[digest] for digest in inline}
        item = self._item(member, {digest: len(self.work.blobs[digest]) for digest in fresh})
        try:
            reply = await self.session.lane.request(item, blobs, self.deadline)
            if isinstance(reply, Dead):
                return Lost(member.name, reply.reason)
            if isinstance(reply, Done):
                self.received[member.name] = await self._fetch(reply)
                self.session.known.add(member, needs(item.program))
        except DeadlineExceeded:
            return Lost(member.name, "time")
        except Missing:
            return self._failed(member, "its results were lost on the way", "run the computation again")
        if isinstance(reply, Need) and not self.work.blobs.keys() >= set(reply.digests):
            return self._failed(member, "it asked for blobs that it was never to have", "see its log")
        return reply

    async def _fetch(self, reply: Done) -> list[Buffer]:
        results = self.session.lane.results
        return [await results.get(digest, self.deadline, RESULT_PATIENCE) for digest, _ in reply.outputs]

    def _item(self, member: Member, fresh: Mapping[Digest, int]) -> WorkItem:
        left = self.deadline.left()
        return WorkItem(
            session=self.session.id,
            stage=self.work.level,
            silo=member.name,
            reply_to=self.session.lane.key,
            clients=self.session.clients[member.name],
            program=self.work.programs[member.name],
            fresh=dict(fresh),
            seconds=left,
            lease=left + LEASE_SLACK,
            last=self.work.last,
        )

    def _failed(self, member: Member, cause: str, hint: str) -> Failed:
        return Failed(self.session.id, self.work.level, member.name, member.incarnation, "lost", cause, hint)


async def _cancel(tasks: Sequence[asyncio.Task[Outcome] | asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
