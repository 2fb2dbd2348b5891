"""The sessions of a silo: between stages, each has an executor of the runtime and the values in it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from fedbroker.graphs.expressions import Value as Label
from fedbroker.log import get_logger
from fedbroker.masking.work import NO_WORK
from fedbroker.runtime import Ref
from fedbroker.wire.messages import Call
from fedbroker_worker.errors import SessionLost, WorkRefused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fedbroker.deadline import Deadline
    from fedbroker.runtime import Executor
    from fedbroker.runtime.runtimes import Lease, Runtimes
    from fedbroker.wire.messages import WorkItem

__all__ = ["SessionValues", "Sessions", "SiloSession"]

_log = get_logger(__name__)

MAX_LEASE: Final = 86_400.0
"""The most seconds for which a session's values are kept without work, even if its coordinator asks for more: a day.

A coordinator that died must not hold memory here for ever.
"""

DISPOSE_AFTER: Final = 0.02
"""Seconds after a session's end until its executor is disposed of.

The runtime would otherwise be busy with the disposal while the session's last reply is sent.
"""


@dataclass(slots=True, eq=False)
class SiloSession:
    """One session at this silo.

    Attributes:
        by: the fingerprint of the key that signed its work items; empty where nothing is signed.
        id: the id of the session.
        reply_to: its coordinator.
        clients: the number of the silo's clients in it.
        lease: the lease of an executor of the runtime; taken when the first work item runs.
        refs: values by the coordinator's ids.
        labels: the policy's labels of these values, by the same ids.
        work: the digest of the work so far; only kept by a silo that takes part in masked sums.
        ended: True after the session was ended; no more work may run in it.
    """

    by: str
    id: str
    reply_to: str
    clients: int
    lease: Lease | None = None
    refs: dict[int, Ref] = field(default_factory=dict[int, Ref])
    labels: dict[int, Label] = field(default_factory=dict[int, Label])
    work: bytes = NO_WORK
    ended: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    timer: asyncio.TimerHandle | None = None


class SessionValues(NamedTuple):
    """The executor and values of a session, for a work item.

    Attributes:
        executor: the session's executor.
        refs: see :class:`SiloSession`.
        labels: see :class:`SiloSession`.
        session: the session itself.
    """

    executor: Executor
    refs: dict[int, Ref]
    labels: dict[int, Label]
    session: SiloSession


class Sessions:
    """The sessions that are alive at this silo.

    Each belongs to the signer of its work items: another signer's session with the same id is another session.

    Args:
        runtimes: the source of executors.
        max_sessions: the most sessions at a time: each holds an executor and values, and a coordinator that died ends
            none of its sessions.
    """

    def __init__(self, runtimes: Runtimes, max_sessions: int) -> None:
        self._runtimes = runtimes
        self._max_sessions = max_sessions
        self._alive: dict[tuple[str, str], SiloSession] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of sessions that are alive."""
        return len(self._alive)

    def is_alive(self, session_id: str, by: str = "") -> bool:
        """Return whether a signer's session is alive here."""
        return (by, session_id) in self._alive

    async def changed(self, deadline: Deadline) -> None:
        """Wait until a session has ended, or until the deadline."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.left()):
                await self._changed.wait()

    def check(self, item: WorkItem, by: str = "") -> bool:
        """Check that a work item fits its session, before any work is done for it.

        Args:
            item: the work item.
            by: the fingerprint of its signer.

        Returns:
            True if the session is already here, and may have values in the runtime.

        Raises:
            SessionLost: it continues a session that is not here (any more).
            WorkRefused: it contradicts its session, or the silo has too many sessions.
        """
        session = self._alive.get((by, item.session_id))
        if session is None:
            if item.stage > 0:
                raise SessionLost(
                    f"session {item.session_id} is unknown: this silo was restarted, or the session's lease expired",
                    hint="run the computation again",
                )
            if len(self._alive) >= self._max_sessions:
                raise WorkRefused(
                    f"the limit of {self._max_sessions} sessions is reached",
                    hint="try again later, or raise [silo] max_sessions",
                )
        elif session.reply_to != item.coordinator_id:
            raise WorkRefused(f"session {item.session_id} belongs to another coordinator")
        elif session.clients != item.clients:
            raise WorkRefused(f"session {item.session_id} has {session.clients} clients here, not {item.clients}")
        return session is not None

    @asynccontextmanager
    async def entered(self, item: WorkItem, by: str = "") -> AsyncGenerator[SessionValues]:
        """Enter a work item's session: yield its executor and values, to one item at a time.

        A new session is created. The session ends with its last item and with any exception; otherwise it stays alive
        for the item's lease.

        Raises:
            SessionLost: see :meth:`check`; or the session was ended while this item waited for another one.
            WorkRefused: see :meth:`check`.
            RuntimeUnavailable: no runtime can be started.
        """
        self.check(item, by)
        new = SiloSession(by, item.session_id, item.coordinator_id, item.clients)
        session = self._alive.setdefault((by, item.session_id), new)
        async with session.lock:
            if session.ended:
                raise SessionLost(f"session {item.session_id} was ended", hint="run the computation again")
            if session.timer is not None:
                session.timer.cancel()
            try:
                if session.lease is None:
                    session.lease = await self._runtimes.lease(session.clients)
                with session.lease.in_use():
                    yield SessionValues(session.lease.executor, session.refs, session.labels, session)
            except BaseException as error:
                cancelled = isinstance(error, asyncio.CancelledError)
                self._end(session, computing=cancelled and any(isinstance(op, Call) for op in item.ops))
                raise
            if item.ends_session or session.ended:
                self._end(session)
            else:
                self._keep(session, item.lease)

    def end(self, session: str, by: str = "") -> None:
        """End a signer's session, if it is here, once no work item is in it; the caller cancels its work items."""
        alive = self._alive.get((by, session))
        if alive is not None and alive.lock.locked():
            alive.ended = True
        elif alive is not None:
            self._end(alive)

    async def close(self) -> None:
        """End all sessions."""
        for session in list(self._alive.values()):
            self._end(session)
        await asyncio.gather(*self._closing)

    def _keep(self, session: SiloSession, seconds: float) -> None:
        seconds = min(seconds, MAX_LEASE)
        session.timer = asyncio.get_running_loop().call_later(seconds, self._expire, session)

    def _expire(self, session: SiloSession) -> None:
        _log.warning("session_expired", session=session.id)
        self._end(session)

    def _end(self, session: SiloSession, *, computing: bool = False) -> None:
        session.ended = True
        if session.timer is not None:
            session.timer.cancel()
        session.refs.clear()
        session.labels.clear()
        if self._alive.get((session.by, session.id)) is session:
            del self._alive[session.by, session.id]
            self._changed.set()
        lease, session.lease = session.lease, None
        if lease is not None:
            task = asyncio.create_task(self._give_back(lease, computing=computing), name=f"dispose {session.id}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _give_back(self, lease: Lease, *, computing: bool) -> None:
        """Return a lease after a short delay, so that the runtime's disposal does not delay a reply."""
        if not computing:
            await asyncio.sleep(DISPOSE_AFTER)
        await self._runtimes.release(lease, busy=computing)
