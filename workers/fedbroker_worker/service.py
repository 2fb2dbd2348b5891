"""A silo in service: joins its cohort, answers work until it is told to stop, leaves.

Imports transport, runtime, wire and this distribution's modules.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Literal

import structlog

from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, NameTaken, WireError
from fedbroker.log import get_logger
from fedbroker.runtime import Runtime
from fedbroker.transport import SiloEnd, until_free
from fedbroker.wire.messages import Announce, Done, Failed, Need
from fedbroker_worker.answers import Answers
from fedbroker_worker.catalog import Catalog
from fedbroker_worker.runtimes import Runtimes
from fedbroker_worker.sessions import Sessions
from fedbroker_worker.statistics import Statistics
from fedbroker_worker.version import worker_version
from fedbroker_worker.work import LONGEST_STAGE, PATIENCE, Answer, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Self

    from fedbroker.wire.messages import EndSession, WorkItem
    from fedbroker_worker.config import Settings

__all__ = ["SiloService"]

_log = get_logger(__name__)

OPEN_SECONDS: Final = 30.0
REPLY_GRACE: Final = 30.0
"""Seconds beyond the stage's own time for which an answer is offered to a broker that is away."""

CAPABILITIES: Final = ("replay/1",)
"""What the silo tells of what it understands: programs of executor requests, first version."""

ENDED: Final = 1024
"""Sessions that were given up are remembered, since their work may come after that word."""


class SiloService:
    """A silo, from its settings. Usable with ``async with``: open inside, gone after.

    Args:
        settings: of the silo.
        patience: seconds without progress on the bulk lane after which a blob counts as lost.
        on_answer: called with each answer, before it is sent; must not block.
    """

    def __init__(
        self, settings: Settings, *, patience: float = PATIENCE, on_answer: Callable[[Answer], None] = lambda _: None
    ) -> None:
        silo, limits = settings.silo, settings.limits
        self._settings = silo
        self._incarnation = secrets.token_hex(8)
        self._version = worker_version()
        self._catalog = Catalog(settings.data, settings.directory, limits=limits)
        self._runtimes = Runtimes(lambda: Runtime(isolation=silo.isolation, log=_runtime_log))
        self._end = SiloEnd(
            silo.broker,
            silo.cohort,
            silo.name,
            announcement=self._announcement,
            on_work=self._on_work,
            on_end=self._on_end,
            limits=limits,
            heartbeat=silo.heartbeat,
            store_bytes=silo.blob_cache_bytes,
            store_seconds=silo.blob_cache_seconds,
            prefetch=silo.max_work,
            renew_seconds=silo.renew_seconds,
        )
        self._sessions = Sessions(self._runtimes, silo.max_sessions)
        self._answers = Answers(silo.blob_cache_bytes)
        self._worker = Worker(
            silo.name,
            self._incarnation,
            self._end.blobs,
            self._catalog,
            self._sessions,
            limits=limits,
            patience=patience,
        )
        self._computing: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._busy: dict[asyncio.Task[None], str] = {}  # every job, and its session
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._on_answer = on_answer
        self._leaving = False
        self._closing = False

    async def open(self) -> None:
        """Start the runtime and open the sources, side by side, and join the cohort.

        Raises:
            ConfigError: a source's settings are wrong.
            SourceError: a source cannot be opened.
            RuntimeUnavailable: the C++ runtime cannot be started or isolated.
            BrokerError: the broker cannot be reached, refuses us, or has other queues than ours.
            NameTaken: another silo has this name.
        """
        try:
            await _side_by_side(self._catalog.open(), self._runtimes.start())
            await self._join()
        except BaseException:
            await self.close()
            raise

    async def _join(self) -> None:
        """Take the name; where we stand by, once it is free."""
        silo = self._settings
        while True:
            if silo.standby:
                _log.info("standing by", cohort=silo.cohort)
                await until_free(silo.broker, silo.cohort, silo.name)
            try:
                return await self._end.open(Deadline.after(OPEN_SECONDS))
            except NameTaken:
                if not silo.standby:
                    raise  # else another one that stood by was faster

    @property
    def status(self) -> str:
        """Its cohort and what it has in hand, for people."""
        items, sessions = len(self._busy), len(self._sessions)
        return f"cohort {self._settings.cohort}: {items} work items, {sessions} sessions in hand"

    async def drain(self) -> None:
        """Leave the cohort: take no new session, finish those that are here, for ``drain_seconds`` at most."""
        self._leaving = True
        await self._end.leave()
        deadline = Deadline.after(self._settings.drain_seconds)
        if self._busy or len(self._sessions):
            _log.info("finishing the work in hand", items=len(self._busy), sessions=len(self._sessions))
        while (self._busy or len(self._sessions)) and not deadline.passed():
            if self._busy:
                await asyncio.wait(self._busy, timeout=deadline.left(), return_when=asyncio.FIRST_COMPLETED)
            else:
                await self._sessions.changed(deadline)
        if self._busy:
            _log.warning("work given up", items=len(self._busy), drain_seconds=self._settings.drain_seconds)
        await self._end.drain()

    async def close(self) -> None:
        """Leave at once: work under way is given back to the broker. Bounded in time; may be called twice."""
        self._closing = True
        jobs = list(self._busy)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await self._end.close()
        await self._sessions.close()
        self._answers.clear()
        await _side_by_side(self._runtimes.close(), self._catalog.close())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def statistics(self) -> Statistics:
        """How it is now, and what was counted so far; may be called from any thread."""
        runtimes, end = self._runtimes, self._end
        return Statistics(
            in_hand=len(self._busy),
            sessions=len(self._sessions),
            restarts=runtimes.restarts,
            retired=runtimes.retired,
            cached_bytes=end.blobs.kept_bytes,
            traffic=end.traffic,
            taken=end.taken,
        )

    def _announcement(self) -> Announce:
        return Announce(
            cohort=self._settings.cohort,
            silo=self._settings.name,
            incarnation=self._incarnation,
            heartbeat=self._settings.heartbeat,
            sources=self._catalog.announced,
            version=self._version,
            capabilities=CAPABILITIES,
            in_flight=len(self._busy),
        )

    async def _on_work(self, item: WorkItem) -> None:
        """Have the item answered; one that comes again while it is being computed waits for the same answer."""
        key = (item.session, item.stage)
        job = self._computing.get(key)
        if job is None:
            job = asyncio.create_task(self._serve(item), name=f"work {item.session}.{item.stage}")
            self._computing[key] = job
            self._busy[job] = item.session
            job.add_done_callback(self._ended_job)
        await asyncio.wait([job])  # not awaited itself: the delivery may be cancelled, the job goes on
        if job.cancelled() and self._closing:
            raise asyncio.CancelledError  # not done: the broker gives it to whoever comes after us

    def _ended_job(self, job: asyncio.Task[None]) -> None:
        del self._busy[job]
        self._computed(job)

    def _computed(self, job: asyncio.Task[None] | None) -> None:
        """From now on the same work is answered by another job.

        The coordinator may have the answer, and ask again, before we hear that the broker has taken it.
        """
        for key in [key for key, one in self._computing.items() if one is job]:
            del self._computing[key]

    def _on_end(self, message: EndSession) -> None:
        """The coordinator gives a session up: whatever runs for it stops, unanswered."""
        if message.incarnation not in ("", self._incarnation):
            return  # meant for whoever had our name before
        self._ended[message.session] = None
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)
        for job, session in list(self._busy.items()):
            if session == message.session:
                job.cancel()
        self._sessions.end(message.session)
        self._answers.forget(message.session)
        _log.info("session ended", session=message.session)

    async def _serve(self, item: WorkItem) -> None:
        structlog.contextvars.bind_contextvars(session=item.session, stage=item.stage)
        _log.info("work received", operations=len(item.program), seconds_left=round(item.seconds, 3))
        started = time.monotonic()
        answer = await self._answer(item)
        self._computed(asyncio.current_task())
        self._on_answer(answer)
        _log_answer(answer, time.monotonic() - started)
        await self._reply(item, answer)

    async def _answer(self, item: WorkItem) -> Answer:
        if item.session in self._ended:
            return Answer(self._failed(item, "refused", "the session was given up"))
        remembered = self._answers.get(item.session, item.stage)
        if remembered is not None:
            return Answer(*remembered)
        if self._leaving and not self._sessions.knows(item.session):
            cause = "this silo is leaving its cohort and takes no new session"
            return Answer(self._failed(item, "lost", cause, "run the computation again"))
        answer = await self._worker.answer(item)
        if isinstance(answer.reply, Done):
            self._answers.put(answer.reply, answer.outputs)
        return answer

    async def _reply(self, item: WorkItem, answer: Answer) -> None:
        """Hand the answer to the broker; an answer that cannot be sent at all becomes one that says so."""
        deadline = Deadline.after(min(item.seconds, LONGEST_STAGE) + REPLY_GRACE)
        try:
            try:
                await self._end.reply(item, answer.reply, answer.outputs, deadline)
            except WireError as error:
                await self._end.reply(item, self._failed(item, "refused", error.what, error.hint), {}, deadline)
        except FedbrokerError as error:
            _log.error("answer not delivered", reason=str(error))

    def _failed(self, item: WorkItem, kind: Literal["refused", "lost"], cause: str, hint: str = "") -> Failed:
        silo = self._settings.name
        return Failed(item.session, item.stage, silo, self._incarnation, kind, cause, hint)


def _log_answer(answer: Answer, seconds: float) -> None:
    reply = answer.reply
    if isinstance(reply, Done):
        size = sum(size for _, size in reply.outputs)
        _log.info("work done", outputs=len(reply.outputs), bytes=size, seconds=round(seconds, 3))
    elif isinstance(reply, Need):
        _log.info("blobs lacking", count=len(reply.digests))
    else:
        _log.warning("work failed", kind=reply.kind, reason=reply.cause, seconds=round(seconds, 3))


async def _side_by_side(*steps: Coroutine[Any, Any, None]) -> None:
    """Take steps side by side; the first failure ends the others and is raised."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _runtime_log(line: str) -> None:
    _log.debug("runtime", line=line)
