"""A reconnecting connection: the first attempt raises an error; after it, each loss is repaired with back-off."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, BrokerRefused, BrokerUnreachable, NameTaken
from fedbroker.log import get_logger
from fedbroker.transport.amqp.alarm import blocked
from fedbroker.transport.amqp.connection import Connection, TrafficCounters
from fedbroker.transport.amqp.delays import FIRST_DELAY, delays, refusal_delays
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.exceptions import (
    NO_EXCHANGE,
    ConnectionLost,
    Locked,
    Nacked,
    RetrySetup,
    Unroutable,
    first_line,
)
from fedbroker.transport.amqp.message import Outgoing
from fedbroker.transport.amqp.url import Address

__all__ = ["ROUTE_TIMEOUT", "ReconnectingConnection", "Restoration"]

_log = get_logger(__name__)

ROUTE_TIMEOUT: Final = 15.0
"""Seconds for which a message may match no queue: its consumer redeclares a queue that the broker lost."""
ROUTE_PAUSE: Final = 0.25
"""Seconds between two attempts to publish while the queue is missing: a consumer needs longer to redeclare it."""
REPLY_CONFIRM_TIMEOUT: Final = 5.0
"""Seconds without a confirmation after which a reply is published again: a live broker needs a fraction of one."""
MIN_RATE: Final = 100_000
"""Bytes per second: a slower connection publishes a large reply more than once, before it can be confirmed."""
TRANSIENT_CONFIRM_TIMEOUT: Final = 30.0
"""Seconds without a confirmation after which a transient message is abandoned: the node of its queue may be down."""

STABLE_AFTER: Final = 5.0
"""Seconds after which a connection counts as stable: the delays start again from the first one at its next loss."""
DIAL_TIMEOUT: Final = 30.0
"""Seconds for one attempt to connect and set up: ample for TLS over a slow line, and a hung one is repeated."""
RESTORE_TIMEOUT: Final = 15.0
"""Seconds to restore exchanges and bindings: longer than a cluster needs to elect a leader."""
REBINDING: Final = 45.0
"""Seconds after an exchange was missing during which its queues are bound again: silos see to it every half minute."""
FAREWELL_TIMEOUT: Final = 2.0
"""Seconds for the farewell of ``ReconnectingConnection.close``: an exit must not wait for a broker."""
RETURN_TIMEOUT: Final = 0.5
"""Seconds that a farewell waits for a connection that has just been lost: the first attempt restores most."""
SETUP_RETRY_TIMEOUT: Final = 5.0
"""Seconds of retries while the broker drops us during the setup, as when a cluster has just lost a node."""
MAX_START_DELAY: Final = 2.0
"""Maximum seconds between two attempts while a broker does not listen yet: its users wait for it."""
NAME_LINGER: Final = 2.0
"""Seconds during which a killed process may still hold its name, until the broker notices its closed sockets."""
LOOK_SECONDS: Final = 0.01
"""Seconds that a look at the connection's state may take."""
LINGERING_HEARTBEATS: Final = 4
"""Heartbeats after the loss of a connection during which its locks may remain: the broker ends a silent connection
after two to three, and another node of a cluster learns of it a little later."""


Setup = Callable[[Connection], Awaitable[None]]
"""Declares and consumes on a new connection; called for the first one and after every reconnection."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """Regular restoration of exchanges that were deleted by hand, and of their bindings, on a live connection.

    Attributes:
        restore: restores them; returns the names of the exchanges that were missing.
        seconds: maximum seconds between two calls.
    """

    restore: Callable[[Connection], Awaitable[list[str]]]
    seconds: float


class ReconnectingConnection:
    """One supervised connection to the broker; publishes over the present connection, and over the next after a loss.

    Args:
        address: the broker's address.
        name: the connection's name in the broker's management views.
        setup: see ``Setup``.
        spread: seconds within which to reconnect, at random, after a loss; longer for clients that are many.
        restoration: see ``Restoration``; None if the user may not declare anything.

    Attributes:
        traffic: counters of its traffic so far.
    """

    traffic: TrafficCounters

    def __init__(
        self,
        address: Address,
        name: str,
        setup: Setup,
        *,
        spread: float = FIRST_DELAY,
        restoration: Restoration | None = None,
    ) -> None:
        self._address = address
        self._name = name
        self._setup = setup
        self._spread = spread
        self._restoration = restoration
        self._rebound_by = Deadline.after(0.0)  # until then, a queue may still have to be bound to a new exchange
        self.traffic = TrafficCounters()
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._restorer: asyncio.Task[None] | None = None
        self._reason = "it is not open"
        self._closed = False

    async def open(self, deadline: Deadline, patience: float = 0.0) -> None:
        """Connect and set up.

        Args:
            deadline: for the whole call.
            patience: seconds to wait for a broker that does not listen yet.

        Raises:
            BrokerUnreachable: no host answers with AMQP, or not in time.
            BrokerRefused: wrong user, password, vhost or permission.
            TopologyMismatch: a queue or exchange exists with other properties.
            BrokerLost: the connection was lost during the setup, repeatedly for 5 s.
            NameTaken: the setup raised it, repeatedly for 2 s.
        """
        self._closed = False
        name_deadline = Deadline.after(NAME_LINGER).earlier(deadline)
        setup_deadline = Deadline.after(SETUP_RETRY_TIMEOUT).earlier(deadline)
        reason: BrokerUnreachable | None = None
        waiting, pauses = Deadline.after(patience).earlier(deadline), delays()
        while True:
            try:
                connection = await self._dial(deadline)
                break
            except RetrySetup as retry:
                _log.warning("broker_setup_repeated", connection=self._name, reason=str(retry))
            except (NameTaken, BrokerLost) as error:
                if (name_deadline if isinstance(error, NameTaken) else setup_deadline).left() < FIRST_DELAY:
                    raise
                await asyncio.sleep(FIRST_DELAY)
            except BrokerUnreachable as error:
                if not error.retryable or waiting.passed():
                    # The last attempt was cut short by the deadline: the error of the one before it tells more.
                    raise (reason if reason is not None and deadline.passed() else error) from None
                reason = error
                self._log_failure(error)
                await asyncio.sleep(min(next(pauses), MAX_START_DELAY, waiting.left()))
        self._connection = connection
        self.traffic.up = True
        self._changed.set()
        self._supervisor = asyncio.create_task(self._supervise(connection), name=f"supervise {self._name}")
        if self._restoration is not None:
            self._restorer = asyncio.create_task(self._keep_restoring(self._restoration), name=f"restore {self._name}")

    async def close(self, farewell: Setup | None = None) -> None:
        """Close for good. Takes a bounded time and does not raise if the broker is gone.

        Args:
            farewell: called with the connection first, for at most 2 s, unless it is lost and does not return within
                half a second.
        """
        if farewell is not None and self._supervisor is not None:
            with contextlib.suppress(BrokerLost):
                await self.ready(Deadline.after(RETURN_TIMEOUT))
        self._closed = True
        self._reason = "it was closed"
        for task in (self._supervisor, self._restorer):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._supervisor = self._restorer = None
        connection, self._connection = self._connection, None
        self.traffic.up = False
        self._changed.set()
        if connection is None:
            return
        try:
            if farewell is not None and connection.alive:
                async with asyncio.timeout(FAREWELL_TIMEOUT):
                    await farewell(connection)
        except (ConnectionLost, TimeoutError) as error:
            _log.debug("broker_queues_not_deleted", connection=self._name, reason=str(error))
        finally:
            await connection.close()

    async def lost(self) -> str:
        """Return why the broker's connection is down; empty while it is up."""
        try:
            await self.ready(Deadline.after(LOOK_SECONDS))
        except BrokerLost as error:
            return error.what
        return ""

    async def ready(self, deadline: Deadline) -> Connection:
        """Return a connection that is set up; wait while the broker is away.

        Raises:
            BrokerLost: no connection by the deadline, or this one is closed.
        """
        try:
            async with asyncio.timeout(deadline.left()):
                while self._connection is None or not self._connection.alive:
                    if not self._is_open:
                        raise self._lost()
                    self._changed.clear()
                    await self._changed.wait()
                return self._connection
        except TimeoutError:
            raise self._lost() from None

    async def publish(self, message: Outgoing, deadline: Deadline, *, route_timeout: float = 0.0) -> None:
        """Publish a message until the broker confirms it, across reconnections: delivery is at least once.

        A transient message that the broker rejects, or does not confirm for a while, is abandoned: one of several
        queues may be on a node that is down. The other queues have the message, and the reader of the missing one
        requests what it lacks.

        Args:
            message: the message.
            deadline: by which it must be confirmed.
            route_timeout: seconds to wait for a queue that a mandatory message matches: a queue may come back after the
                loss of its node.

        Raises:
            BrokerLost: not confirmed by the deadline.
            BrokerRefused: the broker refuses the message on every attempt: no permission, or too large.
            Unroutable: the message is mandatory and matches no queue.
        """
        pauses = delays()
        routed_by = Deadline.after(route_timeout).earlier(deadline)
        while True:
            attempt = deadline if message.persistent else Deadline.after(TRANSIENT_CONFIRM_TIMEOUT).earlier(deadline)
            try:
                return await self._publish(message, attempt)
            except Nacked:
                if not message.persistent:
                    return
                await asyncio.sleep(min(next(pauses), deadline.left()))
            except Unroutable:
                rebound_by = self._rebound_by.earlier(deadline) if route_timeout else routed_by
                if max(routed_by, rebound_by).left() < ROUTE_PAUSE:
                    raise
                await asyncio.sleep(ROUTE_PAUSE)
            except BrokerLost:
                if deadline.passed() or not self._is_open:
                    raise
                if self.is_up and not self.alarm:
                    return

    async def _publish(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish like ``publish``, but raise ``Nacked`` if the broker does not accept the message."""
        refused = False
        while True:
            connection = await self.ready(deadline)
            try:
                async with asyncio.timeout(deadline.left()):
                    await _accepting(connection)
                    return await connection.publish(message)
            except TimeoutError:
                if connection.alarm.reason:
                    raise blocked(self._address, connection.alarm.reason) from None
                raise BrokerLost(
                    f"the broker at {self._address} did not confirm a message in time",
                    hint="see whether it is short of memory or disk (`rabbitmqctl status`, alarms)",
                ) from None
            except ConnectionLost as lost:
                if NO_EXCHANGE in str(lost):
                    self._rebound_by = Deadline.after(REBINDING)
                if lost.refusal is not None and refused:
                    raise lost.refusal from None
                refused = lost.refusal is not None

    async def publish_reply(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish a reply; wait for its queue, which may also have been replaced, as its node is down.

        Then the broker rejects the message or does not confirm it, even if the replacement queue has received it. The
        reply is published again and may arrive twice.

        Raises:
            BrokerLost, BrokerRefused: as ``publish`` does.
            Unroutable, Nacked: the broker did not accept it for ``ROUTE_TIMEOUT`` seconds.
        """
        seconds = REPLY_CONFIRM_TIMEOUT + len(message.body) / MIN_RATE
        patience: Deadline | None = None
        while True:
            try:
                return await self._publish(message, Deadline.after(seconds).earlier(deadline))
            except BrokerLost:
                if deadline.passed() or not self._is_open:
                    raise
            except (Unroutable, Nacked):
                patience = patience or Deadline.after(ROUTE_TIMEOUT).earlier(deadline)
                if patience.left() < ROUTE_PAUSE:
                    raise
                await asyncio.sleep(ROUTE_PAUSE)

    @property
    def alarm(self) -> str:
        """The reason of the broker's alarm, if the present connection knows of one; else empty."""
        return "" if self._connection is None else self._connection.alarm.reason

    async def check(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish a message twice: the broker accepts one more from a connection before it tells it of an alarm.

        Raises:
            BrokerLost: not confirmed by the deadline; names an alarm that the broker told of.
            BrokerRefused: the broker refuses the message on every attempt.
        """
        await self.publish(message, deadline)
        await self.publish(message, deadline)

    @property
    def _is_open(self) -> bool:
        """True while connected or reconnecting."""
        return not self._closed and self._supervisor is not None

    @property
    def is_up(self) -> bool:
        """True while connected."""
        return self._connection is not None and self._connection.alive

    def _lost(self) -> BrokerLost:
        return BrokerLost(
            f"no connection with the broker at {self._address}: {self._reason}",
            hint="start the broker again, or repair the network; reconnection is automatic",
        )

    def _on_alarm(self, reason: str) -> None:
        if reason:
            _log.warning("broker_blocked", connection=self._name, reason=f"the broker is {reason}")
        else:
            _log.info("broker_unblocked", connection=self._name)

    def _log_failure(self, error: Exception) -> None:
        """Log the reason of a failed attempt, once for each new reason."""
        if str(error) != self._reason:
            self._reason = str(error)
            _log.warning("broker_not_connected", connection=self._name, reason=self._reason)

    async def _dial(self, deadline: Deadline) -> Connection:
        """Return a new connection that is set up, or raise a typed error."""
        try:
            async with asyncio.timeout(deadline.left()):
                connected = await connect(self._address, self._name, deadline)
        except TimeoutError:
            raise BrokerUnreachable(
                f"the broker at {self._address} did not answer in time",
                retryable=True,
                hint="correct host and port in its URL, or see what blocks the connection (a firewall?)",
            ) from None
        connected.alarm.on_change = self._on_alarm
        connection = None
        try:
            async with asyncio.timeout(deadline.left()):
                connection = await Connection.start(connected, self.traffic)
                await self._setup(connection)
        except BaseException as error:
            await (connection or connected).close()
            if isinstance(error, ConnectionLost | TimeoutError):
                raise BrokerLost(
                    f"lost the broker at {self._address} during the setup: {str(error) or 'no answer in time'}",
                    hint="see the broker's log",
                ) from None
            raise
        return connection

    async def _supervise(self, connection: Connection) -> None:
        """Replace the connection whenever it ends, until cancelled."""
        pauses = delays(self._spread)
        while True:
            since = asyncio.get_running_loop().time()
            await asyncio.wait([connection.down])  # not ``await``: cancelling us would cancel it
            lingers_until = asyncio.get_running_loop().time() + LINGERING_HEARTBEATS * self._address.heartbeat
            self._reason = connection.down.result()
            self._changed.clear()
            self.traffic.up = False
            _log.warning("broker_connection_lost", connection=self._name, reason=self._reason)
            await connection.close()
            if asyncio.get_running_loop().time() - since > STABLE_AFTER:
                pauses = delays(self._spread)
            self._connection = connection = await self._redial(pauses, lingers_until)
            self.traffic.up = True
            self.traffic.reconnections += 1
            self._changed.set()
            _log.info("broker_connection_restored", connection=self._name)

    async def _keep_restoring(self, restoration: Restoration) -> None:
        """Restore exchanges and bindings on the present connection, regularly, until cancelled."""
        while True:
            await asyncio.sleep(restoration.seconds * random.uniform(0.5, 1.0))
            connection = self._connection
            if connection is None or not connection.alive or connection.alarm.reason:
                continue
            try:
                async with asyncio.timeout(RESTORE_TIMEOUT):
                    missing = await restoration.restore(connection)
            except Exception as error:  # of any kind: the supervisor replaces a connection that has ended
                _log.debug("exchanges_not_checked", connection=self._name, reason=first_line(error))
                continue
            if missing:
                self._rebound_by = Deadline.after(REBINDING)
                _log.warning("exchange_restored", connection=self._name, exchanges=missing)

    async def _redial(self, pauses: Iterator[float], lingers_until: float) -> Connection:
        """Connect again; until ``lingers_until``, a lock is taken for one of our lost connection."""
        refusals: Iterator[float] | None = None
        while True:
            await asyncio.sleep(next(pauses if refusals is None else refusals))
            try:
                return await self._dial(Deadline.after(DIAL_TIMEOUT))
            except Exception as error:  # of any kind: no caller waits for it, and the next attempt may succeed
                if isinstance(error, NameTaken | Locked) and asyncio.get_running_loop().time() < lingers_until:
                    _log.debug("lock_lingers", connection=self._name, reason=str(error))
                else:
                    self._log_failure(error)
                if not isinstance(error, BrokerRefused) or isinstance(error, Locked):
                    refusals = None  # a lock ends with the connection that holds it
                elif refusals is None:
                    refusals = refusal_delays()


async def _accepting(connection: Connection) -> None:
    """Wait while the broker accepts no messages from a connection, or until it ends: the next publish tells.

    A message that is published during an alarm would stay in our memory, and so would each further attempt.
    """
    if not connection.alarm.reason:
        return
    over = asyncio.create_task(connection.alarm.over())
    waited: tuple[asyncio.Future[Any], ...] = (over, connection.down)
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        over.cancel()
