"""A coordinator's view of one cohort: its connection to the broker, the present silos, and the sessions it starts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, Unpack

from fedbroker.deadline import Deadline
from fedbroker.errors import CohortTimeout
from fedbroker.lru import LruMap
from fedbroker.session.events import Event, EventDetails, EventName, Listener, Origin, emit
from fedbroker.session.journal import Journal, SessionJournal
from fedbroker.session.report import Recorder, SessionReport, Statistics
from fedbroker.session.roster import BlobCacheIndex, Member, Roster, admit
from fedbroker.session.session import Session
from fedbroker.session.stage_state import Policy
from fedbroker.transport.coordinator.requests import Response
from fedbroker.transport.coordinator.transport import CoordinatorTransport
from fedbroker.trust.keyring import Keys
from fedbroker.trust.keys import Public
from fedbroker.wire.coding import Compression
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Accepted, Announce, Leave, Rejected

__all__ = ["CoordinatorCohort", "Pool"]

MAX_RECENT_SESSIONS: Final = 256
"""Number of recent sessions whose late replies are still counted in their reports. A reply is late by minutes at most,
and a report takes a few kilobytes."""

OPEN_SECONDS: Final = 60.0
"""Time limit, in seconds, for connecting in ``async with``, which cannot be given one: the default of
``Timeouts(join=)``."""

DEFAULT_POLICY = Policy()
NEVER = Deadline.never()
ALONE = Origin()


@dataclass(frozen=True, slots=True)
class Pool:
    """A kind of silo, and the number of them that must be present.

    Attributes:
        includes: returns whether a silo is of this kind.
        at_least: minimum number of them.
        data: their data sources, for errors.
    """

    includes: Callable[[Member], bool]
    at_least: int
    data: str = ""


class CoordinatorCohort:
    """The silos of one cohort, as one coordinator sees them, and the sessions that it starts with them.

    Args:
        url: URL of the broker.
        name: name of the cohort.
        version: version of this software; a silo of an incompatible version is rejected.
        limits: limits on messages and blobs.
        compression: compression of large blobs.
        keys: keys of the coordinator and its silos; None: nothing is signed.
        listeners: called for each silo that joins or leaves and each event of a session; must not block.
        journal: record of unfinished sessions, from which a coordinator resumes after it was killed.

    Raises:
        ConfigError: the URL or the name is malformed, or the compression is unknown.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        version: str = "",
        limits: Limits = DEFAULT_LIMITS,
        compression: Compression = "off",
        keys: Keys | None = None,
        listeners: Sequence[Listener] = (),
        journal: Journal | None = None,
    ) -> None:
        self.name = name
        self._version = version
        self._limits = limits
        self._listeners = listeners
        self._journal = journal
        self._silo_keys: Mapping[str, Public] = {} if keys is None else keys.others
        self._roster = Roster()
        self._blob_index = BlobCacheIndex()
        self._roster_changed = asyncio.Event()
        self._open = asyncio.Event()
        self._notices: set[asyncio.Task[None]] = set()
        self._recent: LruMap[str, Recorder] = LruMap(MAX_RECENT_SESSIONS)
        self._transport = CoordinatorTransport(
            url,
            name,
            key=None if journal is None else journal.key,
            limits=limits,
            compression=compression,
            keys=keys,
            on_announce=self._on_announce,
            on_leave=self._on_leave,
            on_late=self._on_late,
            on_forged=self._on_forged,
        )

    async def open(self, deadline: Deadline, patience: float = 0.0) -> None:
        """Connect, and start to answer the silos that announce themselves.

        Args:
            deadline: limit for the whole call.
            patience: seconds to wait for a broker that does not listen yet.

        Raises:
            BrokerError: the broker cannot be reached, refuses us, or has queues with other properties than ours.
        """
        await self._transport.open(deadline, patience)
        self._open.set()

    async def close(self) -> None:
        """Disconnect and leave nothing behind at the broker. Bounded in time."""
        for notice in self._notices:
            notice.cancel()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        try:
            await self.open(Deadline.after(OPEN_SECONDS))
        except BaseException:
            await asyncio.shield(self.close())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def coordinator_id(self) -> str:
        """The id of this coordinator."""
        return self._transport.coordinator_id

    @property
    def silos(self) -> tuple[Member, ...]:
        """The silos that are present now, sorted by name."""
        return self._roster.present(time.monotonic())

    def statistics(self) -> Statistics:
        """Return the present and missing silos and the counters; may be called from any thread."""
        transport, now = self._transport, time.monotonic()
        present = tuple(member.name for member in self._roster.present(now))
        return Statistics(present, self._roster.missing(now), transport.traffic, transport.late, transport.dead)

    async def gather(self, min_silos: int, join_timeout: float, pool: Pool | None = None) -> tuple[Member, ...]:
        """Wait until enough silos are present.

        Returns:
            The present silos, sorted by name: at least ``min_silos`` and, of a pool, ``pool.at_least``.

        Raises:
            CohortTimeout: fewer were present within ``join_timeout`` seconds; names the present and the missing silos.
        """
        deadline = Deadline.after(join_timeout)
        reported = None
        while True:
            present = self.silos
            in_pool = present if pool is None else [member for member in present if pool.includes(member)]
            at_least = 0 if pool is None else pool.at_least
            if len(present) >= min_silos and len(in_pool) >= at_least:
                return present
            names = [member.name for member in present]
            if names != reported:
                reported = names
                self._emit("waiting_for_silos", present=names, wanted=max(min_silos, at_least), seconds=deadline.left())
            self._roster_changed.clear()
            try:
                async with asyncio.timeout(deadline.left()):
                    await self._roster_changed.wait()
            except TimeoutError:
                error = self._too_few(min_silos, join_timeout, pool)
                if (trouble := await self._transport.trouble()) is not None:
                    error.because(trouble)  # silos cannot announce themselves at a broker that accepts no messages
                raise error from None

    async def newcomer(self, fits: Callable[[Member], bool]) -> Member:
        """Wait, without a time limit, until a silo that fits is present, and return it."""
        while True:
            self._roster_changed.clear()
            for member in self.silos:
                if fits(member):
                    return member
            await self._roster_changed.wait()

    async def session(
        self,
        members: Sequence[Member],
        clients: Mapping[str, int],
        stage_timeout: float,
        *,
        policy: Policy = DEFAULT_POLICY,
        deadline: Deadline = NEVER,
        fingerprint: str = "",
        origin: Origin = ALONE,
    ) -> Session:
        """Start a session with that membership.

        Args:
            members: the membership, frozen from now on.
            clients: number of clients of each silo.
            stage_timeout: seconds for each client stage.
            policy: treatment of silos that do not answer; by default, every silo must.
            deadline: limit for all stages together.
            fingerprint: identifies computation and argument; with a journal, another process resumes the session by it.
            origin: the computation and the program's round, for reports and events.
        """
        name = uuid.uuid4().hex[:16]
        journal = None
        if self._journal is not None and fingerprint:
            journal = await asyncio.to_thread(self._journal.begin, fingerprint, name, members, clients)
        return self._session(name, members, clients, stage_timeout, policy, deadline, journal, origin)

    def resume(
        self,
        unfinished: SessionJournal,
        stage_timeout: float,
        policy: Policy,
        deadline: Deadline,
        origin: Origin = ALONE,
    ) -> Session:
        """Resume a session in which a coordinator with this journal was killed."""
        name, members, clients = unfinished.session, unfinished.members, unfinished.clients
        session = self._session(name, members, clients, stage_timeout, policy, deadline, unfinished, origin)
        session.recorder.emit("session_resumed")
        return session

    def _session(
        self,
        name: str,
        members: Sequence[Member],
        clients: Mapping[str, int],
        stage_timeout: float,
        policy: Policy,
        deadline: Deadline,
        journal: SessionJournal | None,
        origin: Origin,
    ) -> Session:
        report = SessionReport(
            session=name, cohort=self.name, members=tuple(member.name for member in members), origin=origin
        )
        recorder = self._recent[name] = Recorder(report, self._listeners)
        details = origin.details()
        details["members"] = list(report.members)
        recorder.emit("session_started", **details)
        return Session(
            name,
            self._transport,
            self._blob_index,
            tuple(members),
            clients,
            stage_timeout,
            deadline,
            policy,
            late_joiner=self.newcomer,
            recorder=recorder,
            limits=self._limits,
            journal=journal,
            silo_keys=self._silo_keys,
        )

    def _too_few(self, min_silos: int, seconds: float, pool: Pool | None) -> CohortTimeout:
        missing = self._roster.missing(time.monotonic())
        present, needed, data = self.silos, min_silos, ""
        if pool is not None and len(present) >= min_silos:
            present = tuple(member for member in present if pool.includes(member))
            needed, data = pool.at_least, pool.data
        names = [member.name for member in present]
        ignored = [error for silo, error in self._transport.ignored.items() if silo not in names]
        return CohortTimeout(self.name, needed, names, missing, seconds, data=data, ignored=ignored)

    def _on_announce(self, message: Announce) -> None:
        if not self._roster.knows(message) and not self._admitted(message):
            return
        if self._roster.announced(message, time.monotonic()):
            self._emit("silo_joined", message.silo, incarnation=message.incarnation, sources=sorted(message.sources))
        self._roster_changed.set()

    def _admitted(self, message: Announce) -> bool:
        """Answer the first announcement of an incarnation, and return whether it is admitted."""
        now = time.monotonic()
        max_silos = self._limits.max_silos
        if len(self._roster) >= max_silos:
            self._roster.forget_longest_missing(now)
        answer = admit(
            message,
            self._transport.coordinator_id,
            version=self._version,
            members=len(self._roster),
            max_silos=max_silos,
        )
        notice = asyncio.get_running_loop().create_task(self._answer(answer))
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)
        if isinstance(answer, Rejected):
            self._emit("silo_rejected", message.silo, reason=answer.reason)
        return isinstance(answer, Accepted)

    async def _answer(self, answer: Accepted | Rejected) -> None:
        await self._open.wait()  # announcements from the lobby arrive before we have finished connecting
        await self._transport.send_notice(answer.silo, answer)

    def _on_leave(self, message: Leave) -> None:
        if self._roster.left(message):
            self._emit("silo_left", message.silo)

    def _on_late(self, response: Response) -> None:
        recorder = self._recent.get(response.session_id)
        if recorder is not None:
            recorder.late(response.silo, response.stage)
        else:  # the session ended long ago, or belongs to another process
            emit(self._listeners, Event("late_reply", response.session_id, response.stage, response.silo))

    def _on_forged(self, silo: str, session: str, why: str) -> None:
        """Record a forged message in the report of its session or, if unknown, of the silo's running sessions."""
        named = [self._recent[session]] if session in self._recent else []
        running = [
            recorder for recorder in self._recent.values() if not recorder.ended and silo in recorder.report.members
        ]
        for recorder in named or running:
            recorder.forged(silo, why)
        if not named and not running:
            self._emit("message_forged", silo, why=why)

    def _emit(self, name: EventName, silo: str = "", **details: Unpack[EventDetails]) -> None:
        emit(self._listeners, Event(name, silo=silo, details={"cohort": self.name, **details}))
