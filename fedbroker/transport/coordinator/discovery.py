"""Discovery of silos: a coordinator receives their announcements, and finds earlier ones in the cohort's lobby."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import Connection, declare_with_failover
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.coordinator.announcements import AnnouncementReader, LobbyMessage
from fedbroker.transport.signed_messages import CoordinatorEnvelopes
from fedbroker.transport.topology import Queue, lobby_queue, roster_queue
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Announce, Leave

__all__ = ["LobbyListener", "SiloDiscovery"]

_log = get_logger(__name__)

PREFETCH: Final = 64
"""Announcements in flight from the broker; each is small and handled at once."""
CONFIRM_TIMEOUT: Final = 1.0
"""Seconds for a silo found in the lobby to announce itself again: a running one needs one round trip."""


class LobbyListener:
    """Receives announcements and departures, and waits until silos found in a lobby have announced themselves again.

    An announcement that is taken out of the lobby returns to its silo, which then announces itself again to all
    listeners. So a listener starts to consume first and then empties the lobby: no silo is missed.

    Args:
        read: returns the message in a delivery, or None if it is invalid.
        on_message: called for each announcement and departure.
        max_incarnations: incarnations of one silo to wait for.
    """

    def __init__(
        self,
        read: Callable[[Delivery], LobbyMessage | None],
        on_message: Callable[[LobbyMessage], None],
        max_incarnations: int,
    ) -> None:
        self._read = read
        self._on_message = on_message
        self._max_incarnations = max_incarnations
        self._found: dict[str, set[str]] = {}  # the incarnations of each silo
        self._announced: set[tuple[str, str]] | None = set()  # silos and incarnations, until the first are confirmed
        self._received = asyncio.Event()

    async def consume(self, connection: Connection, queue: Queue) -> None:
        """Consume the listener's queue on a new connection."""
        await connection.consume(queue, self._on_delivery, prefetch=PREFETCH)

    def expect(self, messages: Iterable[LobbyMessage | None]) -> None:
        """Wait, from now on, for the silos whose messages were in the lobby; None stands for an invalid message."""
        self._found = {}
        for message in messages:
            match message:
                case Announce() as announce:
                    self._find(announce)
                case Leave() as leave:
                    self._found.get(leave.silo, set()).discard(leave.incarnation)
                case None:
                    pass

    async def confirmed(self, seconds: float, *, any_silo: bool = False) -> None:
        """Wait for new announcements of the silos found in the lobby, for at most a second: some may be gone.

        Args:
            seconds: to wait at most, if that is less than a second.
            any_silo: wait for an announcement of any silo, too, since another listener may have emptied the lobby.
        """
        try:
            async with asyncio.timeout(min(CONFIRM_TIMEOUT, seconds)):
                while self._unconfirmed() or (any_silo and not self._announced):
                    self._received.clear()
                    await self._received.wait()
        except TimeoutError:
            _log.info("silos_in_lobby_not_confirmed", silos=self._unconfirmed())
        self._announced = None

    def _find(self, announce: Announce) -> None:
        incarnations = self._found.setdefault(announce.silo, set())
        if len(incarnations) < self._max_incarnations or announce.incarnation in incarnations:
            incarnations.add(announce.incarnation)
        else:
            _log.warning("announcement_ignored", silo=announce.silo, reason="too many incarnations in the lobby")

    def _unconfirmed(self) -> list[str]:
        """Return the silos with an incarnation that was found in the lobby and has not announced itself again."""
        answered = self._announced or set()
        return sorted(
            silo
            for silo, incarnations in self._found.items()
            if any((silo, incarnation) not in answered for incarnation in incarnations)
        )

    async def _on_delivery(self, delivery: Delivery) -> None:
        message = self._read(delivery)
        if message is not None:
            self._on_message(message)
            if self._announced is not None:
                self._announced.add((message.silo, message.incarnation))
                self._received.set()
        await delivery.ack()


class SiloDiscovery:
    """Listens to the announcements in a cohort's lobby for one coordinator.

    Args:
        cohort: the cohort's name.
        coordinator_id: the coordinator's id.
        limits: bounds on messages.
        envelopes: verifies announcements.
        on_announce: called for each announcement.
        on_leave: called for each departure.
        on_forged: called with a silo's name, an empty session id and a reason, for each forged announcement.
    """

    def __init__(
        self,
        cohort: str,
        coordinator_id: str,
        limits: Limits,
        envelopes: CoordinatorEnvelopes,
        on_announce: Callable[[Announce], None],
        on_leave: Callable[[Leave], None],
        on_forged: Callable[[str, str, str], None],
    ) -> None:
        self._cohort = cohort
        self._coordinator_id = coordinator_id
        self._on_announce = on_announce
        self._on_leave = on_leave
        self._reader = AnnouncementReader(cohort, limits, envelopes, on_forged)
        self._queue: Queue | None = None  # under the name that it had the last time
        self._listener = LobbyListener(self._read_delivery, self._on_message, limits.max_lobby_entries)

    @property
    def ignored(self) -> Mapping[str, FedbrokerError]:
        """Why a silo's latest announcement is ignored, by the silo's name."""
        return self._reader.ignored

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues that it listens to or reads: its own and the lobby, under its present name."""
        lobby = () if self._queue is None else (self._queue,)
        return (roster_queue(self._coordinator_id, self._cohort), *lobby)

    async def listen(self, connection: Connection) -> None:
        """Listen on a connection, then empty the lobby."""
        roster = roster_queue(self._coordinator_id, self._cohort)
        await connection.declare((), (roster,))
        self._queue = await declare_with_failover(connection, lobby_queue(self._cohort), self._queue)
        await self._listener.consume(connection, roster)
        self._listener.expect(map(self._reader.read, await connection.take_all(self._queue)))

    async def confirmed(self, deadline: Deadline) -> None:
        """Wait until the silos found in the lobby have announced themselves again, for at most a second."""
        await self._listener.confirmed(deadline.left())

    def _on_message(self, message: LobbyMessage) -> None:
        if isinstance(message, Announce):
            self._on_announce(message)
        else:
            self._on_leave(message)

    def _read_delivery(self, delivery: Delivery) -> LobbyMessage | None:
        return self._reader.read(delivery.body, delivery.key)
