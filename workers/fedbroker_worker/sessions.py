"""What a silo keeps for each session between its stages: an executor of the runtime and the values held in it.

Imports runtime's client, wire's messages and this distribution's errors.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from fedbroker.log import get_logger
from fedbroker.wire.messages import Call
from fedbroker_worker.errors import SessionLost, WorkRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fedbroker.deadline import Deadline
    from fedbroker.graphs.expressions import Value as Label
    from fedbroker.runtime import Executor, Ref
    from fedbroker.runtime.runtimes import Lease, Runtimes
    from fedbroker.wire.messages import WorkItem

__all__ = ["SessionValues", "Sessions", "SiloSession"]

_log = get_logger(__name__)

LONGEST_LEASE: Final = 86_400.0

TIDY_AFTER: Final = 0.02
"""Seconds after a session's end until what it held is forgotten."""


@dataclass(slots=True, eq=False)
class SiloSession:
    """One session at this silo.

    Attributes:
        by: the fingerprint of the key that signed its work items; empty where nothing is signed.
        id: the session's.
        reply_to: the coordinator that it belongs to.
        clients: how many clients the silo holds in it.
        lease: of an executor of the runtime; made when the first program runs.
        refs: values by the coordinator's ids.
        labels: what the policy knows of them, by the same ids.
        over: it was ended; nothing more may run in it.
    """

    by: str
    id: str
    reply_to: str
    clients: int
    lease: Lease | None = None
    refs: dict[int, Ref] = field(default_factory=dict)
    labels: dict[int, Label] = field(default_factory=dict)
    over: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    timer: asyncio.TimerHandle | None = None


class SessionValues(NamedTuple):
    """What a work item finds in its session.

    Attributes:
        executor: the session's own.
        refs: see :class:`SiloSession`.
        labels: see :class:`SiloSession`.
    """

    executor: Executor
    refs: dict[int, Ref]
    labels: dict[int, Label]


class Sessions:
    """The sessions that are alive at this silo.

    Each belongs to the signer of its work items: another signer's session of the same id is another session.

    Args:
        runtimes: where their executors are made.
        most: how many there may be: each holds an executor and values, and a coordinator that died ends none of its
            own.
    """

    def __init__(self, runtimes: Runtimes, most: int) -> None:
        self._runtimes = runtimes
        self._most = most
        self._alive: dict[tuple[str, str], SiloSession] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._alive)

    def knows(self, session: str, by: str = "") -> bool:
        """Whether that session of a signer is alive here."""
        return (by, session) in self._alive

    async def changed(self, deadline: Deadline) -> None:
        """Wait until one has ended, or for the deadline."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.left()):
                await self._changed.wait()

    def check(self, item: WorkItem, by: str = "") -> bool:
        """See that a work item fits what is here, before anything is done for it.

        Args:
            item: the work item.
            by: the fingerprint of its signer.

        Returns:
            Whether the session is here already, and may have values in the runtime.

        Raises:
            SessionLost: it continues a session that is not here (any more).
            WorkRefused: it contradicts its session, or there are too many sessions.
        """
        session = self._alive.get((by, item.session))
        if session is None:
            if item.stage > 0:
                raise SessionLost(
                    f"session {item.session} is not here: this silo was started again, or its lease ran out",
                    hint="run the computation again",
                )
            if len(self._alive) >= self._most:
                raise WorkRefused(
                    f"{self._most} sessions are under way already", hint="try again later, or raise [silo] max_sessions"
                )
        elif session.reply_to != item.reply_to:
            raise WorkRefused(f"session {item.session} belongs to another coordinator")
        elif session.clients != item.clients:
            raise WorkRefused(f"session {item.session} has {session.clients} clients here, not {item.clients}")
        return session is not None

    @asynccontextmanager
    async def entered(self, item: WorkItem, by: str = "") -> AsyncIterator[SessionValues]:
        """The executor and the values of a work item's session, for one item at a time.

        The session is made where it is new. It ends with its last item, and with any exception; else it lives on for
        the item's lease.

        Raises:
            SessionLost: see :meth:`check`; or it was ended while others were in it.
            WorkRefused: see :meth:`check`.
            RuntimeUnavailable: there is no runtime to be had.
        """
        self.check(item, by)
        new = SiloSession(by, item.session, item.reply_to, item.clients)
        session = self._alive.setdefault((by, item.session), new)
        async with session.lock:
            if session.over:
                raise SessionLost(f"session {item.session} was ended", hint="run the computation again")
            self._stop_timer(session)
            try:
                if session.lease is None:
                    session.lease = await self._runtimes.lease(session.clients)
                with session.lease.at_work():
                    yield SessionValues(session.lease.executor, session.refs, session.labels)
            except BaseException as error:
                given_up = isinstance(error, asyncio.CancelledError)
                self._end(session, busy=given_up and any(isinstance(op, Call) for op in item.program))
                raise
            if item.last or session.over:
                self._end(session)
            else:
                self._keep(session, item.lease)

    def end(self, session: str, by: str = "") -> None:
        """Forget a signer's session, if it is here, as soon as nobody is in it; that is for the caller to cancel."""
        alive = self._alive.get((by, session))
        if alive is not None and alive.lock.locked():
            alive.over = True
        elif alive is not None:
            self._end(alive)

    async def close(self) -> None:
        """Forget all sessions."""
        for session in list(self._alive.values()):
            self._end(session)
        await asyncio.gather(*self._closing)

    def _keep(self, session: SiloSession, seconds: float) -> None:
        seconds = min(seconds, LONGEST_LEASE)
        session.timer = asyncio.get_running_loop().call_later(seconds, self._expire, session)

    def _expire(self, session: SiloSession) -> None:
        _log.warning("session expired", session=session.id)
        self._end(session)

    def _stop_timer(self, session: SiloSession) -> None:
        if session.timer is not None:
            session.timer.cancel()
            session.timer = None

    def _end(self, session: SiloSession, *, busy: bool = False) -> None:
        session.over = True
        self._stop_timer(session)
        session.refs.clear()
        session.labels.clear()
        if self._alive.get((session.by, session.id)) is session:
            del self._alive[session.by, session.id]
            self._changed.set()
        lease, session.lease = session.lease, None
        if lease is not None:
            task = asyncio.create_task(self._give_back(lease, busy=busy), name=f"dispose {session.id}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _give_back(self, lease: Lease, *, busy: bool) -> None:
        """A little later: an answer should not be late because the runtime tidies up."""
        if not busy:
            await asyncio.sleep(TIDY_AFTER)
        await self._runtimes.give_back(lease, busy=busy)
