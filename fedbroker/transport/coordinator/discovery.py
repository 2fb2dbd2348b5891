"""How a coordinator knows its silos: it hears their announcements, and finds in the lobby who waited before it came.

Imports transport's own modules, wire and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import Forged, WireError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import Connection
from fedbroker.transport.amqp.failover import declare_elsewhere
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
"""Seconds that a silo has to say that it is still there, when its announcement was found in the lobby."""


class SiloDiscovery:
    """One coordinator's ear in a cohort's lobby.

    Args:
        cohort: its name.
        key: the coordinator's.
        limits: bounds on messages.
        envelopes: the coordinator's.
        on_announce: called for each announcement.
        on_leave: called for each goodbye.
        on_forged: called with a silo's name, nothing, and a reason, for what it has not written.
    """

    def __init__(
        self,
        cohort: str,
        key: str,
        limits: Limits,
        envelopes: CoordinatorEnvelopes,
        on_announce: Callable[[Announce], None],
        on_leave: Callable[[Leave], None],
        on_forged: Callable[[str, str, str], None],
    ) -> None:
        self._cohort = cohort
        self._key = key
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
        """Listen on a line, then empty the lobby: in this order, so that nobody is missed.

        The broker sends each announcement that was there back to its silo, which makes that announce itself anew.
        """
        roster = roster_queue(self._key, self._cohort)
        await line.declare((), (roster,))
        self._queue = await declare_elsewhere(line, lobby_queue(self._cohort), self._queue)
        await line.consume(roster, self._on_delivery, prefetch=PREFETCH)
        self._found = {}
        for body in await line.take_all(self._queue):
            match self._read(body):
                case Announce() as announce:
                    self._find(announce)
                case Leave() as leave:
                    self._found.get(leave.silo, set()).discard(leave.incarnation)

    async def confirmed(self, deadline: Deadline) -> None:
        """Wait, for a second at most, for those found in the lobby: one that was killed since does not answer."""
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
        """The silos of which an incarnation was found that has not answered."""
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
        """The announcement or goodbye, if it is one of this cohort's, and its sender's own."""
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
