"""Listens for a board: announcements and coordinators' events of one or all cohorts, on queues of its own.

It needs no other permission than to read two exchanges, takes nothing out of another queue, and publishes nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, BrokerRefused, WireError
from fedbroker.log import get_logger
from fedbroker.lru import LruMap
from fedbroker.transport import topology
from fedbroker.transport.amqp.browser import in_time
from fedbroker.transport.amqp.connection import Connection
from fedbroker.transport.amqp.exceptions import ConnectionLost, NotFound
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.amqp.url import parse
from fedbroker.trust.envelope import unverified_body
from fedbroker.wire.codec import decode
from fedbroker.wire.events import CohortEvent, decode_events
from fedbroker.wire.limits import DEFAULT_LIMITS
from fedbroker.wire.messages import Announce, Leave, check_name

__all__ = ["BrokerWatcher"]

_log = get_logger(__name__)

COUNT_SECONDS: Final = 20.0
"""Seconds to count the dead letters of all cohorts."""

MAX_KNOWN: Final = 10_000
"""Silos whose latest announcement is kept; one takes a kilobyte or so."""


class BrokerWatcher:
    """Passes announcements, departures and events to functions; reconnects after a loss of the broker.

    Announcements are not verified, since a board has no keys: it shows what is announced, and decides nothing by it.

    Args:
        url: ``amqp://`` or ``amqps://``.
        cohorts: the cohorts' names; empty for all cohorts.
        on_silo: called for each announcement and departure of a silo, on the event loop; must not block.
        on_events: called with the events of one message.

    Raises:
        ConfigError: a bad URL or name.
    """

    def __init__(
        self,
        url: str,
        cohorts: Sequence[str],
        on_silo: Callable[[Announce | Leave], None],
        on_events: Callable[[list[CohortEvent]], None],
    ) -> None:
        self._address = parse(url)
        names = tuple(check_name("cohort", name) for name in cohorts)
        self._on_silo = on_silo
        self._on_events = on_events
        self._silos, self._events = topology.board_queues(secrets.token_hex(6), names)
        self._known: LruMap[str, tuple[bytes, Announce | Leave]] = LruMap(MAX_KNOWN)
        self._connection = ReconnectingConnection(self._address, "fedbroker board", self._set_up)

    async def open(self, deadline: Deadline) -> None:
        """Connect and listen.

        Raises:
            BrokerError: the broker cannot be reached, or refuses us.
        """
        try:
            await self._connection.open(deadline)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening. Takes a bounded time and never raises."""
        await self._connection.close()

    async def lost(self) -> str:
        """Return why the broker's connection is down; empty while it is up."""
        return await self._connection.lost()

    async def dead_letters(self, cohorts: Sequence[str]) -> dict[str, int | None]:
        """Return the number of dead letters of each cohort; None for a cohort without an archive of them.

        Raises:
            BrokerLost: the connection is down, or the broker does not answer in time.
        """
        deadline = Deadline.after(COUNT_SECONDS)
        connection = await self._connection.ready(deadline)
        with in_time():
            async with asyncio.timeout(deadline.left()):
                try:
                    return {cohort: await connection.count(topology.archive(cohort)) for cohort in cohorts}
                except ConnectionLost as error:
                    raise BrokerLost(f"the connection with the broker was lost ({error})") from None

    async def _set_up(self, connection: Connection) -> None:
        await self._declare_exchanges(connection)
        await connection.declare((), (self._silos, self._events))
        await connection.consume(self._silos, self._on_announcement, prefetch=0)
        await connection.consume(self._events, self._on_event_message, prefetch=0)

    async def _declare_exchanges(self, connection: Connection) -> None:
        """Declare missing exchanges, for a broker that no coordinator has used yet."""
        for exchange in (topology.LOBBY, topology.EVENTS):
            try:
                await connection.check_exchange(exchange)
            except NotFound:
                try:
                    await connection.declare((exchange,), ())
                except BrokerRefused as error:
                    raise BrokerRefused(
                        f"exchange {exchange.name!r} does not exist, and this user may not declare it ({error.what})",
                        hint="run `fedbroker admin init --force`, or start a coordinator of this version once",
                    ) from None

    async def _on_announcement(self, delivery: Delivery) -> None:
        try:
            self._on_silo(self._announcement(bytes(unverified_body(delivery.body)), delivery.key))
        except WireError as error:
            _log.warning("message_dropped", at="lobby", reason=error.what)

    def _announcement(self, body: bytes, key: str) -> Announce | Leave:
        """Return the message in an unsigned body.

        A silo says the same in most announcements, and decoding takes half of a board's processor time.
        """
        known = self._known.get(key)
        if known is not None and known[0] == body:
            return known[1]
        message = decode(body, DEFAULT_LIMITS).message
        if not isinstance(message, Announce | Leave) or key != topology.silo_key(message.cohort, message.silo):
            raise WireError(f"a {type(message).__name__} under {key!r}")
        self._known[key] = body, message
        return message

    async def _on_event_message(self, delivery: Delivery) -> None:
        try:
            events = decode_events(delivery.body)
            if any(delivery.key != topology.events_key(event.cohort, event.coordinator) for event in events):
                raise WireError(f"events of another coordinator under {delivery.key!r}")
        except WireError as error:
            _log.warning("message_dropped", at="events", reason=error.what)
            return
        self._on_events(events)
