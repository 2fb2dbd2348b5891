"""Observation of the silos of one or all cohorts, without being a coordinator: announcements and departures only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, WireError
from fedbroker.log import get_logger
from fedbroker.transport import topology
from fedbroker.transport.amqp.browser import QueueBrowser, in_time
from fedbroker.transport.amqp.connection import Connection
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.amqp.url import parse
from fedbroker.trust.envelope import unverified_body
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Announce, Leave, check_name

__all__ = ["CohortObserver", "Heard"]

_log = get_logger(__name__)

Heard: TypeAlias = Announce | Leave

PREFETCH: Final = 64
PATIENCE: Final = 1.0
"""Seconds for a silo whose announcement was found in the lobby to announce itself again."""
OTHERS: Final = 0.25
"""Minimum seconds of listening: another reader may just have taken an announcement out of the lobby."""


class CohortObserver:
    """Listens to announcements on an exclusive queue; reconnects after a loss of the broker.

    Args:
        url: ``amqp://`` or ``amqps://``.
        cohort: the cohort to observe; None for all cohorts.
        on_heard: called for each announcement and departure of a silo (on the event loop, must not block).
        limits: bounds on messages.

    Raises:
        ConfigError: a bad URL or name.
    """

    def __init__(
        self, url: str, cohort: str | None, on_heard: Callable[[Heard], None], *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._address = parse(url)
        self._cohort = None if cohort is None else check_name("cohort", cohort)
        self._on_heard = on_heard
        self._limits = limits
        self._queue = topology.roster_queue(f"look-{secrets.token_hex(6)}", cohort or "*")
        self._link = ReconnectingConnection(self._address, f"fedbroker lookout {cohort or ''}".strip(), self._set_up)
        self._answered: set[tuple[str, str]] = set()  # silo and incarnation
        self._changed = asyncio.Event()

    async def open(self, deadline: Deadline) -> None:
        """Connect and listen. For a single cohort, also find the silos that wait in its lobby.

        An announcement taken out of the lobby returns to its silo, which then announces itself again to all listeners.
        So the silos found there that are still running have been reported when this method returns. With an empty lobby
        the wait for announcements is the same, because another reader may have taken them.

        Raises:
            BrokerError: the broker cannot be reached, refuses us, or the connection was lost.
        """
        try:
            await self._link.open(deadline)
            if self._cohort is not None:
                with in_time():
                    async with asyncio.timeout(deadline.left()):
                        found = await self._wake(topology.lobby_queue(self._cohort))
                if found is not None:
                    await asyncio.gather(self._answers(found), asyncio.sleep(OTHERS))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening. Takes a bounded time and never raises."""
        await self._link.close()

    async def lost(self) -> str:
        """Return why the broker's connection is down; empty while it is up."""
        try:
            await self._link.ready(Deadline.after(0.01))
        except BrokerLost as error:
            return error.what
        return ""

    async def _set_up(self, line: Connection) -> None:
        await line.declare((topology.LOBBY,), (self._queue,))
        await line.consume(self._queue, self._on_delivery, prefetch=PREFETCH)

    async def _wake(self, lobby: topology.Queue) -> set[tuple[str, str]] | None:
        """Take all announcements out of the lobby; return their silos and incarnations, or None if it does not exist.

        A missing lobby is not declared.
        """
        connected = await connect(self._address, "fedbroker lookout")
        try:
            reader = QueueBrowser(connected)
            if (count := await reader.count(lobby)) is None:
                return None
            found: set[tuple[str, str]] = set()
            for _ in range(count):
                if (taken := await reader.take(lobby)) is None:
                    break
                match self._read(taken):
                    case Announce() as announce:
                        found.add((announce.silo, announce.incarnation))
                    case Leave() as leave:
                        found.discard((leave.silo, leave.incarnation))
                await taken.reject()
            return found
        finally:
            await connected.close()

    async def _answers(self, found: set[tuple[str, str]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while found - self._answered or not self._answered:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            _log.debug("silos in the lobby do not answer", silos=sorted(silo for silo, _ in found - self._answered))

    async def _on_delivery(self, delivery: Delivery) -> None:
        if (heard := self._read(delivery)) is not None:
            self._on_heard(heard)
            self._answered.add((heard.silo, heard.incarnation))
            self._changed.set()
        await delivery.ack()

    def _read(self, delivery: Delivery) -> Heard | None:
        """Return the announcement or departure if its routing key matches the silo that it names."""
        try:
            message = decode(unverified_body(delivery.body), self._limits).message
        except WireError as error:
            _log.warning("message dropped", at="lobby", reason=error.what)
            return None
        if isinstance(message, Announce | Leave) and delivery.key == topology.silo_key(message.cohort, message.silo):
            return message
        _log.warning("message dropped", at="lobby", reason=f"a {type(message).__name__} under {delivery.key!r}")
        return None
