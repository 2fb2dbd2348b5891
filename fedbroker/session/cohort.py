"""A coordinator's view of one cohort: its link to the broker, who is there, and the sessions it starts.

Imports transport, wire and the base.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedbroker.deadline import Deadline
from fedbroker.errors import CohortTimeout
from fedbroker.log import get_logger
from fedbroker.session.roster import Member, Roster
from fedbroker.session.session import Session
from fedbroker.session.shipping import Known
from fedbroker.transport.coordinator import CoordinatorEnd
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Announce, Leave

__all__ = ["Cohort", "Pool"]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pool:
    """Silos of a kind, of which there must be some.

    Attributes:
        holds: whether a silo is one of them.
        at_least: how many there must be.
        data: the data sources that they have, for errors.
    """

    holds: Callable[[Member], bool]
    at_least: int
    data: str


class Cohort:
    """The silos of one cohort, as one coordinator sees them.

    Args:
        url: of the broker.
        name: of the cohort.
        limits: on messages and blobs.
    """

    def __init__(self, url: str, name: str, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.name = name
        self._limits = limits
        self._roster = Roster()
        self._known = Known()
        self._heard = asyncio.Event()
        self._end = CoordinatorEnd(url, name, limits=limits, on_announce=self._on_announce, on_leave=self._on_leave)

    async def open(self, deadline: Deadline) -> None:
        """Connect and learn who waits in the lobby.

        Raises:
            BrokerError: it cannot be reached, refuses us, or has other queues than ours.
        """
        await self._end.open(deadline)

    async def close(self) -> None:
        """Leave nothing behind at the broker. Bounded in time."""
        await self._end.close()

    @property
    def silos(self) -> tuple[Member, ...]:
        """Who is there now, by name."""
        return self._roster.present(time.monotonic())

    async def gather(self, min_silos: int, join_timeout: float, pool: Pool) -> tuple[Member, ...]:
        """Wait until enough silos are there.

        Returns:
            Those that are there, by name: at least ``min_silos``, and at least ``pool.at_least`` of the pool.

        Raises:
            CohortTimeout: there were not enough within ``join_timeout`` seconds; says who is there and who is missing.
        """
        deadline = Deadline.after(join_timeout)
        while len(self.silos) < min_silos or len(self._of(pool)) < pool.at_least:
            self._heard.clear()
            try:
                async with asyncio.timeout(deadline.left()):
                    await self._heard.wait()
            except TimeoutError:
                raise self._too_few(min_silos, join_timeout, pool) from None
        return self.silos

    def session(self, members: Sequence[Member], clients: Mapping[str, int], stage_timeout: float) -> Session:
        """A session with that membership; ``clients`` is how many clients each silo holds."""
        session = Session(
            uuid.uuid4().hex[:16], self._end, self._known, tuple(members), clients, stage_timeout, limits=self._limits
        )
        _log.info("session started", session=session.id, silos=[member.name for member in members])
        return session

    def _of(self, pool: Pool) -> list[Member]:
        return [member for member in self.silos if pool.holds(member)]

    def _too_few(self, min_silos: int, seconds: float, pool: Pool) -> CohortTimeout:
        missing = self._roster.missing(time.monotonic())
        there, wanted, data = self.silos, min_silos, ""
        if len(there) >= min_silos:
            there, wanted, data = tuple(self._of(pool)), pool.at_least, pool.data
        return CohortTimeout(self.name, wanted, [member.name for member in there], missing, seconds, data=data)

    def _on_announce(self, message: Announce) -> None:
        if message.cohort == self.name:
            self._roster.announced(message, time.monotonic())
            self._heard.set()

    def _on_leave(self, message: Leave) -> None:
        if message.cohort == self.name:
            self._roster.left(message)
