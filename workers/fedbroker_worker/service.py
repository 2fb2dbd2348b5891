"""A running silo: it joins its cohort, answers work items until it is stopped, and leaves."""

from __future__ import annotations

import asyncio
import math
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerRefused, NameTaken
from fedbroker.log import get_logger
from fedbroker.runtime import Runtime
from fedbroker.runtime.runtimes import Runtimes
from fedbroker.text import count_text
from fedbroker.transport import SiloTransport, refusal_delays, until_free
from fedbroker.trust.replays import Accepted as AcceptedMessage
from fedbroker.wire.messages import SHUFFLE, Announce
from fedbroker_worker import worker_version
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.journal.journal import WorkJournal
from fedbroker_worker.masking.exchange import MaskCounters
from fedbroker_worker.masking.exchanges import Exchanges
from fedbroker_worker.masking.keys import MaskKeys
from fedbroker_worker.masking.sums import SiloSums
from fedbroker_worker.policy.accepted import accepted_file
from fedbroker_worker.policy.audit import AuditLog
from fedbroker_worker.policy.guard import Guard
from fedbroker_worker.roster import roster_file
from fedbroker_worker.sources.catalog import Catalog
from fedbroker_worker.sources.seeds import SiloSeeds
from fedbroker_worker.threads import in_thread
from fedbroker_worker.work.sessions import Sessions
from fedbroker_worker.work.tasks import ReplyCache, WorkTasks
from fedbroker_worker.work.worker import PATIENCE, Worker, WorkReply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from types import TracebackType
    from typing import Any, Self

    from fedbroker.transport import Signed
    from fedbroker.transport.amqp.connection import TrafficCounters
    from fedbroker.transport.silo.work_consumer import WorkCounters
    from fedbroker.wire.messages import EndSession, MaskNotice, Source, WorkItem
    from fedbroker_worker.config import Settings
    from fedbroker_worker.control.views import SiloState

__all__ = ["SiloService", "Statistics"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """The current state of a silo, and its counters since it started.

    Attributes:
        running: the number of work items that are running or whose reply is being sent.
        sessions: the number of sessions that hold values here.
        restarts: how often the C++ runtime died and was restarted.
        retired: how often the runtime was replaced because a computation in it was cancelled.
        replies_failed: the number of replies that could not be sent.
        cached_bytes: the size of the cached blobs.
        traffic: live counters of the connections to the broker, by connection.
        work_counters: live counters of the messages from the work queue.
        masks: live counters of masked sums; zeros if the silo takes part in none.
    """

    running: int
    sessions: int
    restarts: int
    retired: int
    replies_failed: int
    cached_bytes: int
    traffic: Mapping[str, TrafficCounters]
    work_counters: WorkCounters
    masks: MaskCounters = field(default_factory=MaskCounters)


_log = get_logger(__name__)

OPEN_SECONDS: Final = 30.0
"""Time limit in seconds for connecting to the broker and joining the cohort.

Ample for TLS over a slow line. After it, the silo exits with the reason, and a service manager starts it again.
"""

UNMASK_SECONDS: Final = 20.0
"""Seconds for which a stopping silo waits for the coordinator's request for shares, which removes masks of its values.

A coordinator asks within seconds of a stage's last reply; one that has dropped this silo never does.
"""

MASKED_WORK: Final = 128
"""The most work items that a silo with a roster takes from the broker: ``max_work`` of them compute, the others make
their offers to masked sums, for which other silos wait. Each takes at most a megabyte.
"""

CAPABILITIES: Final = ("replay/1", SHUFFLE)
"""The silo's announced capabilities: work items as lists of operations, first version, and shuffled rows."""


class SiloService:
    """A silo, from its settings. Usable with ``async with``: open inside the block, closed after it.

    Args:
        settings: the silo's settings.
        on_refused: called with each refusal of the broker while the silo joins, which is tried again with growing
            delays; None: ``open`` raises the first one.
        patience: seconds without progress of a blob's transfer after which the blob counts as lost.
        on_reply: called with each reply before it is sent; must not block.

    Attributes:
        journal: the recent work items.
        state: the present state.
    """

    journal: WorkJournal
    state: SiloState

    def __init__(
        self,
        settings: Settings,
        *,
        on_refused: Callable[[BrokerRefused], None] | None = None,
        patience: float = PATIENCE,
        on_reply: Callable[[WorkReply], None] | None = None,
    ) -> None:
        silo, limits = settings.silo, settings.limits
        self._settings = silo
        self._on_refused = on_refused
        self._incarnation = secrets.token_hex(8)
        self.journal = WorkJournal(settings.signers, settings.policy.errors_in_full, lambda: self._catalog.announced)
        self.state: SiloState = "joining"
        self._is_paused = False
        self._version = worker_version()
        self._catalog = Catalog(settings.data, settings.directory, limits=limits, min_rows=settings.policy.min_rows)
        memory = silo.runtime_memory_bytes
        self._runtimes = Runtimes(
            lambda: Runtime(isolation=silo.isolation, memory=memory, confinement=silo.runtime_confinement)
        )
        self._transport = SiloTransport(
            silo.broker,
            silo.cohort,
            silo.name,
            announcement=self._announcement,
            on_work=self._on_work,
            on_session_end=self._on_session_end,
            on_mask_notice=self._on_mask_notice,
            limits=limits,
            compression=silo.compression,
            keys=settings.keys,
            heartbeat=silo.heartbeat,
            store_bytes=silo.blob_cache_bytes,
            store_seconds=silo.blob_cache_seconds,
            prefetch=silo.max_work if settings.roster is None else max(silo.max_work, MASKED_WORK),
            renew_seconds=silo.renew_seconds,
            enrolled=silo.enrolled,
        )
        audit_file = settings.policy.audit_file
        self._audit = AuditLog(settings.directory / audit_file) if audit_file else None
        self._mask_keys = self._sums = None
        self._rosters = rosters = roster_file(settings)
        self._watch: asyncio.Task[None] | None = None
        if settings.keys is not None and rosters is not None:
            fewest = settings.policy.min_sum_silos
            self._mask_keys = MaskKeys(silo.cohort, silo.name, self._incarnation, settings.keys.own, fewest)
            exchanges = Exchanges(self._incarnation, self._transport.mask_reply, self._audit)
            self._sums = SiloSums(self._mask_keys, rosters, fewest, exchanges)
        self._sessions = Sessions(self._runtimes, silo.max_sessions)
        self._reply_cache = ReplyCache(silo.blob_cache_bytes)
        worker = Worker(
            silo.name,
            self._incarnation,
            self._transport.blobs,
            self._catalog,
            SiloSeeds(silo.name, settings.keys),
            self._sessions,
            Guard(settings.policy),
            limits=limits,
            patience=patience,
            audit=self._audit,
            sums=self._sums,
            max_work=silo.max_work,
        )
        self._accepted = accepted_file(settings)
        self._tasks = WorkTasks(
            silo.name,
            self._incarnation,
            self._transport,
            worker,
            self._sessions,
            self._reply_cache,
            on_reply,
            self._accepted,
            None if self._sums is None else self._sums.exchanges,
            self.journal,
        )

    async def open(self) -> None:
        """Start the runtime and open the sources, concurrently, then join the cohort.

        Raises:
            ConfigError: a source's settings are wrong.
            SourceError: a source cannot be opened.
            RuntimeUnavailable: the C++ runtime cannot be started or isolated.
            BrokerError: the broker cannot be reached, refuses the silo (unless that is tried again), or has queues with
                other settings.
            NameTaken: another silo has this name.
        """
        try:
            if self._audit is not None:
                await in_thread(self._audit.check, "audit")
            if self._accepted is not None:
                await in_thread(self._accepted.check, "record")
            await _concurrently(self._catalog.open(), self._runtimes.start(), self._read_roster())
            await self._join()
        except BaseException:
            await self.close()
            raise

    async def _read_roster(self) -> None:
        """Read the roster before the first announcement, and keep it current. Without one, the silo masks nothing."""
        if self._rosters is None:
            return
        with suppress(SettingsError):  # logged there
            await in_thread(self._rosters.current, "roster")
        self._watch = asyncio.create_task(self._rosters.watch(self._settings.heartbeat), name="roster")

    async def _join(self) -> None:
        """Join under the silo's name; with ``standby``, wait until the name is free."""
        silo, pauses = self._settings, refusal_delays()
        while True:
            if silo.standby:
                self._enter("standing by")
                _log.info("standby_started", cohort=silo.cohort)
                await until_free(silo.broker, silo.cohort, silo.name)
            await self._restore()
            try:
                await self._transport.open(Deadline.after(OPEN_SECONDS))
                return self._enter("paused" if self._is_paused else "in its cohort")
            except NameTaken:
                if not silo.standby:
                    raise  # with standby, another waiting process was faster
            except BrokerRefused as error:
                if self._on_refused is None:
                    raise
                self._on_refused(error)
                pause = next(pauses)
                _log.error("broker_refused", reason=str(error), seconds=round(pause, 1))
                await asyncio.sleep(pause)

    async def _restore(self) -> None:
        """Load the record of signed work of earlier processes; with ``standby``, the last one may have just ended."""
        if self._accepted is None:
            return
        if self._audit is not None:  # synced to disk, so that it may list work that the record lost in a power cut
            nonces = await in_thread(self._audit.nonces, "audit")
            self._transport.restore([AcceptedMessage(by, nonce, -math.inf) for by, nonce in nonces])
        self._transport.restore(await in_thread(self._accepted.load, "record"))

    def _on_session_end(self, message: EndSession, by: str) -> None:
        self._tasks.end_session(message, by)

    def _on_mask_notice(self, notice: MaskNotice, content: bytes, by: str) -> None:
        if self._sums is not None:
            self._sums.exchanges.on_notice(notice, content, by)

    def _on_work(self, item: WorkItem, signed: Signed) -> Awaitable[None]:
        return self._tasks.answer(item, signed)

    @property
    def status(self) -> str:
        """The silo's cohort and the numbers of its work items and sessions, for people."""
        items, sessions = count_text(len(self._tasks), "work item"), count_text(len(self._sessions), "session")
        paused = ", paused" if self._is_paused else ""
        return f"cohort {self._settings.cohort}{paused}: {items}, {sessions}"

    def _enter(self, state: SiloState) -> None:
        self.state = state
        self.journal.note()

    async def pause(self) -> bool:
        """Leave the cohort for a while: refuse new sessions, and finish the others. May be called before :meth:`open`.

        Returns:
            False if coordinators could not be told: they notice by themselves within two heartbeats.
        """
        self._is_paused = True
        self._tasks.pause()
        if self.state == "in its cohort":
            self._enter("paused")
        return await self._transport.pause()

    async def resume(self) -> None:
        """Come back to the cohort after :meth:`pause`."""
        self._is_paused = False
        self._tasks.resume()
        if self.state == "paused":
            self._enter("in its cohort")
        await self._transport.resume()

    async def drain(self) -> None:
        """Leave the cohort: refuse new sessions, and finish the others within ``drain_seconds``."""
        self._enter("leaving")
        self._tasks.leave()
        await self._transport.leave()
        deadline = Deadline.after(self._settings.drain_seconds)
        if self._tasks or len(self._sessions):
            _log.info("drain_started", items=len(self._tasks), sessions=len(self._sessions))
        while (self._tasks or len(self._sessions)) and not deadline.passed():
            if self._tasks:
                await self._tasks.wait_until_one_is_done(deadline)
            else:
                await self._sessions.changed(deadline)
        if self._sums is not None and not self._tasks:
            await self._sums.exchanges.answered(Deadline.after(min(deadline.left(), UNMASK_SECONDS)))
        if self._tasks:
            _log.warning("work_abandoned", items=len(self._tasks), drain_seconds=self._settings.drain_seconds)
        await self._transport.drain()

    async def close(self) -> None:
        """Leave at once: the broker requeues running work items. Bounded in time; may be called twice."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])
        await self._tasks.close()
        if self._sums is not None:
            self._sums.exchanges.close()
        await self._transport.close()
        await self._sessions.close()
        self._reply_cache.clear()
        await _concurrently(self._runtimes.close(), self._catalog.close())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def incarnation(self) -> str:
        """The id of this process in the cohort."""
        return self._incarnation

    @property
    def is_connected(self) -> bool:
        """True while the silo is connected to the broker."""
        return self._transport.is_connected

    @property
    def sources(self) -> Mapping[str, Source]:
        """The data sources as the silo announces them, by name."""
        return self._catalog.announced

    @property
    def roster(self) -> str:
        """One line about the roster of masked sums; empty for a silo that takes part in none."""
        if self._rosters is None:
            return ""
        problem = self._rosters.problem
        return (
            "in force"
            if self._rosters.is_in_force
            else f"not in force: {'not read yet' if problem is None else problem.what}"
        )

    def statistics(self) -> Statistics:
        """Return the current state and counters; may be called from any thread."""
        runtimes, transport = self._runtimes, self._transport
        return Statistics(
            running=len(self._tasks),
            sessions=len(self._sessions),
            restarts=runtimes.restarts,
            retired=runtimes.retired,
            replies_failed=self._tasks.replies_failed,
            cached_bytes=transport.blobs.kept_bytes,
            traffic=transport.traffic,
            work_counters=transport.work_counters,
            masks=MaskCounters() if self._sums is None else self._sums.exchanges.counters,
        )

    def _announcement(self) -> Announce:
        is_ready = self._mask_keys is not None and self._rosters is not None and self._rosters.is_in_force
        member = self._mask_keys.member if self._mask_keys is not None and is_ready else None
        return Announce(
            cohort=self._settings.cohort,
            silo=self._settings.name,
            incarnation=self._incarnation,
            heartbeat=self._settings.heartbeat,
            sources=self._catalog.announced,
            version=self._version,
            capabilities=CAPABILITIES,
            in_flight=len(self._tasks),
            mask_key=member.mask_key.hex() if member is not None else "",
            mask_signature=member.signature.hex() if member is not None else "",
        )


async def _concurrently(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
