"""The answers of a silo's service to requests at its control socket."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fedbroker.log import get_logger
from fedbroker.lru import LruMap
from fedbroker_worker import worker_version
from fedbroker_worker.control.protocol import Account, Changes, Condition, Explain, Pause, Rejection, Resume, Watch
from fedbroker_worker.control.views import SourceView, StatusView
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.journal.account import account_of
from fedbroker_worker.journal.earlier import earlier_work
from fedbroker_worker.policy.audit import AuditLog
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fedbroker_worker.config import Settings
    from fedbroker_worker.control.pausing import PauseFile
    from fedbroker_worker.control.protocol import Reply, Request
    from fedbroker_worker.service import SiloService

__all__ = ["SiloControl"]

_log = get_logger(__name__)

MOST_REPLIED: Final = 100
"""The most work items of one reply, which keeps it below the protocol's limit."""

MOST_ACCOUNTS: Final = 64
"""The most work items whose description is cached."""

_NOT_SENT: Final = "the broker is not reached: coordinators notice within two heartbeats"


class SiloControl:
    """Answers the requests of a silo's administrator.

    Args:
        settings: the silo's settings.
        service: the running silo.
        record: the record of a pause.
    """

    def __init__(self, settings: Settings, service: SiloService, record: PauseFile) -> None:
        self._settings = settings
        self._service = service
        self._record = record
        self._paused_since: float | None = None
        self._is_kept = False
        self._since = time.time()
        self._lock = asyncio.Lock()
        self._explaining = asyncio.Lock()
        self._accounts: LruMap[int, list[str]] = LruMap(MOST_ACCOUNTS)
        self._changes: set[asyncio.Task[Reply]] = set()

    async def restore(self) -> None:
        """Pause the silo before it joins if it was paused when its last process ended, and recall earlier work."""
        await self._recall()
        since = await in_thread(self._record.read, "pause")
        if since is not None:
            self._paused_since, self._is_kept = since, True
            await self._service.pause()
            _log.warning("silo_paused", kept=True)

    async def _recall(self) -> None:
        """Put the work items of earlier processes into the journal, from the end of the audit log."""
        policy = self._settings.policy
        log = AuditLog(self._settings.directory / policy.audit_file) if policy.audit_file else None
        if log is None or not await in_thread(log.path.exists, "audit"):
            return
        with suppress(SettingsError):  # the silo reports it when it opens the log
            lines = await in_thread(log.recent, "audit")
            names = self._settings.signers
            self._service.journal.restore(earlier_work(lines, names, errors_in_full=policy.errors_in_full))

    async def answer(self, request: Request) -> Reply:
        """Return the reply to a request, after it was carried out."""
        match request:
            case Watch():
                return await self._watch(request)
            case Explain():
                return await self._explain(request.id)
            case Pause():
                return await self._to_the_end(self._pause())
            case Resume():
                return await self._to_the_end(self._resume())
            case _:
                return Condition(self.status())

    async def _watch(self, request: Watch) -> Reply:
        """Return the work items that changed, once some did or the time is up."""
        journal = self._service.journal
        after = request.after if request.incarnation == self._service.incarnation else -1
        await journal.wait(after, request.seconds)
        work, more = journal.since(after, MOST_REPLIED)
        return Changes(self.status(), work[-1].changed if more else journal.changed, work, more)

    async def _explain(self, number: int) -> Reply:
        """Return a work item in words. One at a time, since large graphs take a second of the processor."""
        journal = self._service.journal
        async with self._explaining:
            if number in self._accounts:
                return Account(number, self._accounts[number])
            entry = journal.entry(number)
            if entry is None:
                return Rejection(f"work item {number} is no longer kept")
            describe = partial(
                account_of, entry.item.ops, journal.blobs_of(entry), self._settings.policy, self._service.sources
            )
            lines = await in_thread(describe, "account")
            if not entry.is_running:
                self._accounts[number] = lines
            return Account(number, lines)

    async def _to_the_end(self, change: Coroutine[Any, Any, Reply]) -> Reply:
        """Carry out a change even if the process that asked for it goes away."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _pause(self) -> Reply:
        async with self._lock:
            if self._service.state == "leaving":
                return Rejection("the silo is leaving its cohort")
            notes: list[str] = []
            if self._paused_since is None:
                self._paused_since = time.time()
            if not self._is_kept and (reason := await self._recorded(self._paused_since)):
                notes.append(f"a restart of the service ends the pause: {reason}")
            if not await self._service.pause() and self._service.state == "paused":
                notes.append(_NOT_SENT)
            _log.info("silo_paused", kept=self._is_kept)
            return Condition(self.status(), "; ".join(notes))

    async def _resume(self) -> Reply:
        async with self._lock:
            note = ""
            if reason := await self._recorded(None):
                note = f"a restart of the service would pause it again: {reason}"
            was_paused, self._paused_since = self._paused_since is not None, None
            await self._service.resume()
            if was_paused:
                _log.info("silo_resumed")
            return Condition(self.status(), note)

    async def _recorded(self, since: float | None) -> str:
        """Record a pause, or its end; return why that failed."""
        try:
            if since is None:
                await in_thread(self._record.remove, "pause")
            else:
                await in_thread(lambda: self._record.write(since), "pause")
        except OSError as error:
            reason = f"{self._record.path} cannot be written: {error.strerror}"
            _log.warning("pause_not_recorded", file=str(self._record.path), reason=reason)
            return reason
        self._is_kept = since is not None
        return ""

    def status(self) -> StatusView:
        """Return the present state and the counters."""
        settings, service = self._settings, self._service
        statistics = service.statistics()
        counted = service.journal.outcomes
        return StatusView(
            silo=settings.silo.name,
            cohort=settings.silo.cohort,
            state=service.state,
            paused_since=self._paused_since,
            pause_kept=self._is_kept,
            connected=service.is_connected,
            broker=settings.silo.shown_broker,
            since=self._since,
            pid=os.getpid(),
            version=worker_version(),
            python=platform.python_version(),
            incarnation=service.incarnation,
            running=statistics.running,
            sessions=statistics.sessions,
            answered=counted.answered,
            refused=counted.refused,
            failed=counted.failed,
            bytes_out=counted.bytes_out,
            replies_failed=statistics.replies_failed,
            restarts=statistics.restarts,
            sources=[
                SourceView(
                    name, [f"{column.name}: {column.dtype}" for column in source.columns], source.rows, source.clients
                )
                for name, source in service.sources.items()
            ],
            policy=settings.policy.summary,
            guarantee=settings.policy.guarantee,
            roster=service.roster,
            audit_file=settings.policy.audit_file,
            signers=list(settings.signers.values()),
        )
