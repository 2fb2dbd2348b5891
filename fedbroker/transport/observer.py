"""Observation of the silos of one or all cohorts, without being a coordinator: announcements and departures only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import WireError
from fedbroker.log import get_logger
from fedbroker.transport import topology
from fedbroker.transport.amqp.browser import QueueBrowser, in_time
from fedbroker.transport.amqp.connection import Connection
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.amqp.url import parse
from fedbroker.transport.coordinator.announcements import AnnouncementReader, LobbyMessage
from fedbroker.transport.coordinator.discovery import CONFIRM_TIMEOUT, LobbyListener
from fedbroker.trust.envelope import unverified_body
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Announce, Leave, check_name

__all__ = ["CohortObserver"]

_log = get_logger(__name__)

MIN_LISTENING: Final = 0.25
"""Minimum seconds of listening: another reader may just have taken an announcement out of the lobby."""


class CohortObserver:
    """Listens to announcements on an exclusive queue; reconnects after a loss of the broker.

    Args:
        url: ``amqp://`` or ``amqps://``.
        cohort: the cohort to observe; None for all cohorts.
        on_message: called for each announcement and departure of a silo (on the event loop, must not block).
        limits: bounds on messages.
        reader: reads announcements as a coordinator of the cohort does; None: they are not verified.

    Raises:
        ConfigError: a bad URL or name.
    """

    def __init__(
        self,
        url: str,
        cohort: str | None,
        on_message: Callable[[LobbyMessage], None],
        *,
        limits: Limits = DEFAULT_LIMITS,
        reader: AnnouncementReader | None = None,
    ) -> None:
        self._address = parse(url)
        self._cohort = None if cohort is None else check_name("cohort", cohort)
        self._limits = limits
        self._reader = reader
        self._queue = topology.roster_queue(f"look-{secrets.token_hex(6)}", cohort or "*")
        self._connection = ReconnectingConnection(
            self._address, f"fedbroker observer {cohort or ''}".strip(), self._set_up
        )
        self._listener = LobbyListener(self._read, on_message, limits.max_lobby_entries)

    async def open(self, deadline: Deadline) -> None:
        """Connect and listen. For a single cohort, also find the silos that wait in its lobby.

        An announcement taken out of the lobby returns to its silo, which then announces itself again to all listeners.
        So the silos found there that are still running have been reported when this method returns. With an empty lobby
        the wait for announcements is the same, because another reader may have taken them.

        Raises:
            BrokerError: the broker cannot be reached, refuses us, or the connection was lost.
        """
        try:
            await self._connection.open(deadline)
            if self._cohort is not None:
                with in_time():
                    async with asyncio.timeout(deadline.left()):
                        found = await self._take_all(topology.lobby_queue(self._cohort))
                if found is not None:
                    self._listener.expect(found)
                    async with asyncio.TaskGroup() as listening:
                        listening.create_task(self._listener.confirmed(CONFIRM_TIMEOUT, any_silo=True))
                        listening.create_task(asyncio.sleep(MIN_LISTENING))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening. Takes a bounded time and never raises."""
        await self._connection.close()

    async def lost(self) -> str:
        """Return why the broker's connection is down; empty while it is up."""
        return await self._connection.lost()

    async def _set_up(self, connection: Connection) -> None:
        await connection.declare((topology.LOBBY,), (self._queue,))
        await self._listener.consume(connection, self._queue)

    async def _take_all(self, lobby: topology.Queue) -> list[LobbyMessage | None] | None:
        """Take all messages out of the lobby and return them; None if it does not exist. It is not declared then."""
        connected = await connect(self._address, "fedbroker observer")
        try:
            browser = QueueBrowser(connected)
            if (count := await browser.count(lobby)) is None:
                return None
            found: list[LobbyMessage | None] = []
            for _ in range(count):
                if (delivery := await browser.take(lobby)) is None:
                    break
                found.append(self._read(delivery))
                await delivery.reject()
            return found
        finally:
            await connected.close()

    def _read(self, delivery: Delivery) -> LobbyMessage | None:
        """Return the announcement or departure if its routing key matches the silo that it names."""
        if self._reader is not None:
            return self._reader.read(delivery.body, delivery.key)
        try:
            message = decode(unverified_body(delivery.body), self._limits).message
        except WireError as error:
            _log.warning("message_dropped", at="lobby", reason=error.what)
            return None
        if isinstance(message, Announce | Leave) and delivery.key == topology.silo_key(message.cohort, message.silo):
            return message
        _log.warning("message_dropped", at="lobby", reason=f"a {type(message).__name__} under {delivery.key!r}")
        return None
