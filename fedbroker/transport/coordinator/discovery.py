"""Discovery of silos: a coordinator receives their announcements, and finds earlier ones in the cohort's lobby."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import Forged, WireError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import Connection, declare_with_failover
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.signed_messages import CoordinatorEnvelopes
from fedbroker.transport.topology import Queue, lobby_queue, roster_queue, silo_key
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Announce, Leave

__all__ = ["SiloDiscovery"]

_log = get_logger(__name__)

PREFETCH: Final = 64
PATIENCE: Final = 1.0
"""Seconds for a silo whose announcement was found in the lobby to announce itself again."""


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
        self._limits = limits
        self._on_announce = on_announce
        self._on_leave = on_leave
        self._envelopes = envelopes
        self._on_forged = on_forged
        self._queue: Queue | None = None  # under the name that it had the last time
        self._found: dict[str, set[str]] = {}  # the incarnations of each silo
        self._answered: set[tuple[str, str]] | None = set()  # silos and incarnations, until the first are confirmed
        self._heard = asyncio.Event()

    async def listen(self, line: Connection) -> None:
        """Listen on a connection, then empty the lobby: in this order, so that no silo is missed.

        The broker returns each announcement from the lobby to its silo, which then announces itself again.
        """
        roster = roster_queue(self._coordinator_id, self._cohort)
        await line.declare((), (roster,))
        self._queue = await declare_with_failover(line, lobby_queue(self._cohort), self._queue)
        await line.consume(roster, self._on_delivery, prefetch=PREFETCH)
        self._found = {}
        for body in await line.take_all(self._queue):
            match self._read(body):
                case Announce() as announce:
                    self._find(announce)
                case Leave() as leave:
                    self._found.get(leave.silo, set()).discard(leave.incarnation)

    async def confirmed(self, deadline: Deadline) -> None:
        """Wait for new announcements of the silos found in the lobby, for at most a second: some may be gone."""
        try:
            async with asyncio.timeout(min(PATIENCE, deadline.left())):
                while self._unconfirmed():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            _log.info("silos in the lobby do not answer", silos=self._unconfirmed())
        self._answered = None

    def _find(self, announce: Announce) -> None:
        incarnations = self._found.setdefault(announce.silo, set())
        if len(incarnations) < self._limits.max_lobby_entries or announce.incarnation in incarnations:
            incarnations.add(announce.incarnation)
        else:
            _log.warning("silo has too many announcements", silo=announce.silo)

    def _unconfirmed(self) -> list[str]:
        """Return the silos with an incarnation that was found in the lobby and has not announced itself again."""
        answered = self._answered or set()
        return sorted(
            silo
            for silo, incarnations in self._found.items()
            if any((silo, incarnation) not in answered for incarnation in incarnations)
        )

    async def _on_delivery(self, delivery: Delivery) -> None:
        match self._read(delivery.body, delivery.key):
            case Announce() as announce:
                self._on_announce(announce)
                self._settle(announce.silo, announce.incarnation)
            case Leave() as leave:
                self._on_leave(leave)
                self._settle(leave.silo, leave.incarnation)
        await delivery.ack()

    def _settle(self, silo: str, incarnation: str) -> None:
        if self._answered is not None:
            self._answered.add((silo, incarnation))
            self._heard.set()

    def _read(self, body: bytes, key: str | None = None) -> Announce | Leave | None:
        """Return a verified announcement or departure of this cohort; None (after a report or log line) for others."""
        try:
            said, signer = self._envelopes.announcement(body)
            message = decode(said, self._limits).message
            if not isinstance(message, Announce | Leave) or message.cohort != self._cohort:
                raise WireError(f"a {type(message).__name__} that does not belong in the lobby of {self._cohort!r}")
            if signer not in (None, message.silo):
                raise Forged(f"an announcement of {message.silo!r} that {signer!r} has signed")
            if key is not None and key != silo_key(message.cohort, message.silo):
                raise WireError(f"a message of {message.silo!r} under the routing key {key!r}")
        except Forged as error:
            self._on_forged((key or "").rpartition(".")[2], "", error.what)
            return None
        except WireError as error:
            _log.warning("message dropped", at="lobby", reason=error.what)
            return None
        return message
