"""A connection that comes back: the first attempt fails loudly, after that every loss is mended with back-off.

Imports transport's connect, line, publishing and url, and the base.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, BrokerUnreachable, NameTaken
from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import Connection
from fedbroker.transport.amqp.counters import TrafficCounters
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.exceptions import ConnectionLost, Nacked, RetrySetup, Unroutable
from fedbroker.transport.amqp.message import Outgoing
from fedbroker.transport.amqp.url import Address

__all__ = ["FIRST_DELAY", "ReconnectingConnection", "delays"]

_log = get_logger(__name__)

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
NO_QUEUE: Final = 15.0
"""Seconds for which a message may have no queue: its reader makes a new one for one that the broker lost."""
NO_QUEUE_PAUSE: Final = 0.25
SILENT: Final = 5.0
"""Seconds without a word on a reply after which it is sent again."""
SLOWEST: Final = 100_000
"""Bytes a second of the slowest way to the broker that a reply is sent on once only."""
UNCONFIRMED: Final = 30.0
"""Seconds without a word on a transient message after which it is let go."""

STABLE: Final = 5.0
"""Seconds after which a line counts as good, and the next loss as a new one."""
DIAL_TIMEOUT: Final = 30.0
"""Seconds for one attempt to connect and set up."""
FAREWELL_TIMEOUT: Final = 2.0
RETURN_TIMEOUT: Final = 0.5
"""Seconds that a farewell waits for a line that has just been lost."""
SETTLING: Final = 5.0
"""Seconds for a broker that lets us in and goes away while we set up, as when a cluster has just lost a node."""
LONGEST_WAIT: Final = 2.0
"""Seconds at most between two looks at whether a broker that is waited for listens by now."""
LINGER: Final = 2.0
"""Seconds during which a name may still be held by a process that was killed."""


def delays(spread: float = FIRST_DELAY) -> Iterator[float]:
    """Seconds to wait before each attempt to come back.

    The first is any moment of ``spread``: all who lost the same broker lose it in the same moment. Then it doubles,
    up to 10 s or ``spread``, whichever is longer, less up to a half at random.
    """
    yield random.uniform(0.0, spread)
    longest = spread
    while True:
        longest = max(spread, min(2 * longest, LONGEST_DELAY))
        yield longest * random.uniform(0.5, 1.0)


class Publisher(ABC):
    """Publishes on whichever line there is."""

    @abstractmethod
    async def ready(self, deadline: Deadline) -> Connection:
        """A line that is set up; waits for a broker that is away.

        Raises:
            BrokerLost: there is none by the deadline, or there will be none any more.
        """

    @property
    @abstractmethod
    def where(self) -> str:
        """Where the broker is, for errors."""

    @property
    @abstractmethod
    def _goes_on(self) -> bool:
        """Whether there is a line, or will be one again."""

    @property
    @abstractmethod
    def _up(self) -> bool:
        """Whether there is a line now."""

    async def publish(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish and await the broker's confirmation, over as many lines as it takes: at least once.

        A transient message that the broker refuses, or says nothing about for a while, is let go: one of several queues
        may be on a node that is down, the others have it, and its reader asks again for what it lacks.

        Raises:
            BrokerLost: not confirmed by the deadline.
            BrokerRefused: the broker does not take it, whoever asks: no permission, too large.
            Unroutable: it was mandatory, and no queue wants it.
        """
        pauses = delays()
        while True:
            attempt = deadline if message.persistent else Deadline.after(UNCONFIRMED).earlier(deadline)
            try:
                return await self._publish(message, attempt)
            except Nacked:
                if not message.persistent:
                    return
                await asyncio.sleep(min(next(pauses), deadline.left()))
            except BrokerLost:
                if deadline.passed() or not self._goes_on:
                    raise
                if self._up:
                    return

    async def _publish(self, message: Outgoing, deadline: Deadline) -> None:
        """The same; what the broker does not take raises ``Nacked``."""
        refused = False
        while True:
            line = await self.ready(deadline)
            try:
                async with asyncio.timeout(deadline.left()):
                    return await line.publish(message)
            except TimeoutError:
                raise BrokerLost(
                    f"the broker at {self.where} did not confirm a message in time",
                    hint="see whether it is short of memory or disk (`rabbitmqctl status`, alarms)",
                ) from None
            except ConnectionLost as down:
                if down.refusal is not None and refused:
                    raise down.refusal from None
                refused = down.refusal is not None

    async def publish_routed(self, message: Outgoing, deadline: Deadline) -> None:
        """Publish a mandatory message; a queue that is missing may be coming back, as after the loss of its node.

        Raises:
            BrokerLost, BrokerRefused: as ``publish`` does.
            Unroutable: no queue wanted it for ``NO_QUEUE`` seconds.
        """
        patience = Deadline.after(NO_QUEUE).earlier(deadline)
        while True:
            try:
                return await self.publish(message, deadline)
            except Unroutable:
                if patience.left() < NO_QUEUE_PAUSE:
                    raise
                await asyncio.sleep(NO_QUEUE_PAUSE)

    async def publish_reply(self, message: Outgoing, deadline: Deadline) -> None:
        """The same for a reply: its queue may also be on a node that is down, and another one be made in its place.

        Then the broker says no, or nothing, whether the other one has it or not: it is sent again, and may come twice.

        Raises:
            BrokerLost, BrokerRefused: as ``publish`` does.
            Unroutable, Nacked: the broker did not take it for ``NO_QUEUE`` seconds.
        """
        seconds = SILENT + len(message.body) / SLOWEST
        patience: Deadline | None = None
        while True:
            try:
                return await self._publish(message, Deadline.after(seconds).earlier(deadline))
            except BrokerLost:
                if deadline.passed() or not self._goes_on:
                    raise
            except (Unroutable, Nacked):
                patience = patience or Deadline.after(NO_QUEUE).earlier(deadline)
                if patience.left() < NO_QUEUE_PAUSE:
                    raise
                await asyncio.sleep(NO_QUEUE_PAUSE)


Setup = Callable[[Connection], Awaitable[None]]
"""Declares and consumes on a new line. Called for each line, the first and every later one."""


class ReconnectingConnection(Publisher):
    """One supervised connection to the broker.

    Args:
        address: where to.
        name: what the broker's operator sees the connection called.
        setup: see ``Setup``.
        spread: seconds within which to come back after a loss, at random: the more there are of a kind, the longer.

    Attributes:
        traffic: what has gone over it so far.
    """

    traffic: TrafficCounters

    def __init__(self, address: Address, name: str, setup: Setup, *, spread: float = FIRST_DELAY) -> None:
        self._address = address
        self._name = name
        self._setup = setup
        self._spread = spread
        self.traffic = TrafficCounters()
        self._line: Connection | None = None
        self._changed = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._why = "it is not open"
        self._closed = False

    async def open(self, deadline: Deadline, patience: float = 0.0) -> None:
        """Connect and set up.

        Args:
            deadline: for all of it.
            patience: seconds to wait for a broker that does not listen yet.

        Raises:
            BrokerUnreachable: nothing that speaks AMQP answers, or not in time.
            BrokerRefused: wrong user, password, vhost or permission.
            TopologyMismatch: a queue or exchange is there already, of another kind.
            BrokerLost: it went away while we set up, again and again, for 5 s.
            NameTaken: the setup says so, for 2 s.
        """
        self._closed = False
        linger, settling = Deadline.after(LINGER).earlier(deadline), Deadline.after(SETTLING).earlier(deadline)
        reason: BrokerUnreachable | None = None
        waiting, pauses = Deadline.after(patience).earlier(deadline), delays()
        while True:
            try:
                line = await self._dial(deadline)
                break
            except RetrySetup as again:
                _log.warning("broker connection set up again", connection=self._name, reason=str(again))
            except (NameTaken, BrokerLost) as error:
                if (linger if isinstance(error, NameTaken) else settling).left() < FIRST_DELAY:
                    raise
                await asyncio.sleep(FIRST_DELAY)
            except BrokerUnreachable as error:
                if not error.retryable or waiting.passed():
                    # An attempt that the deadline cut short knows less than the one before it.
                    raise (reason if reason is not None and deadline.passed() else error) from None
                reason = error
                self._note(error)
                await asyncio.sleep(min(next(pauses), LONGEST_WAIT, waiting.left()))
        self._line = line
        self.traffic.up = True
        self._changed.set()
        self._supervisor = asyncio.create_task(self._supervise(line), name=f"supervise {self._name}")

    async def close(self, farewell: Setup | None = None) -> None:
        """Leave for good; bounded in time, never raises for a broker that is gone.

        Args:
            farewell: what to do on the line before, if there is one, or is one again within half a second; may take
                2 s.
        """
        if farewell is not None and self._supervisor is not None:
            with contextlib.suppress(BrokerLost):
                await self.ready(Deadline.after(RETURN_TIMEOUT))
        self._closed = True
        self._why = "it was closed"
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
        line, self._line = self._line, None
        self.traffic.up = False
        self._changed.set()
        if line is None:
            return
        try:
            if farewell is not None and line.alive:
                async with asyncio.timeout(FAREWELL_TIMEOUT):
                    await farewell(line)
        except (ConnectionLost, TimeoutError) as error:
            _log.debug("broker connection not tidied", connection=self._name, reason=str(error))
        finally:
            await line.close()

    async def ready(self, deadline: Deadline) -> Connection:
        """A line that is set up; waits for a broker that is away.

        Raises:
            BrokerLost: there is none by the deadline, or the link was closed.
        """
        try:
            async with asyncio.timeout(deadline.left()):
                while self._line is None or not self._line.alive:
                    if not self._goes_on:
                        raise self._lost()
                    self._changed.clear()
                    await self._changed.wait()
                return self._line
        except TimeoutError:
            raise self._lost() from None

    @property
    def where(self) -> str:
        """The broker's hosts and ports."""
        return str(self._address)

    @property
    def _goes_on(self) -> bool:
        return not self._closed and self._supervisor is not None

    @property
    def _up(self) -> bool:
        return self._line is not None and self._line.alive

    def _lost(self) -> BrokerLost:
        return BrokerLost(
            f"no connection with the broker at {self._address}: {self._why}",
            hint="start the broker again, or mend the network; we reconnect by ourselves",
        )

    def _note(self, error: Exception) -> None:
        """Log why there is no connection, once for each new reason."""
        if str(error) != self._why:
            self._why = str(error)
            _log.warning("no broker connection yet", connection=self._name, reason=self._why)

    async def _dial(self, deadline: Deadline) -> Connection:
        """A line that is set up, or a typed error."""
        try:
            async with asyncio.timeout(deadline.left()):
                connected = await connect(self._address, self._name, deadline)
        except TimeoutError:
            raise BrokerUnreachable(
                f"the broker at {self._address} did not answer in time",
                retryable=True,
                hint="correct host and port in its URL, or see what blocks the way (a firewall?)",
            ) from None
        line = None
        try:
            async with asyncio.timeout(deadline.left()):
                line = await Connection.start(connected, self.traffic)
                await self._setup(line)
        except BaseException as error:
            await (line or connected).close()
            if isinstance(error, ConnectionLost | TimeoutError):
                raise BrokerLost(
                    f"the broker at {self._address} went away while we set up: {str(error) or 'no answer in time'}",
                    hint="see the broker's log",
                ) from None
            raise
        return line

    async def _supervise(self, line: Connection) -> None:
        """Keep a line up, until cancelled."""
        pauses = delays(self._spread)
        while True:
            since = asyncio.get_running_loop().time()
            await asyncio.wait([line.down])  # not awaited itself: cancelling us must not end the line
            self._why = line.down.result()
            self._changed.clear()
            self.traffic.up = False
            _log.warning("broker connection lost", connection=self._name, reason=self._why)
            await line.close()
            if asyncio.get_running_loop().time() - since > STABLE:
                pauses = delays(self._spread)
            self._line = line = await self._redial(pauses)
            self.traffic.up = True
            self.traffic.reconnections += 1
            self._changed.set()
            _log.info("broker connection back", connection=self._name)

    async def _redial(self, pauses: Iterator[float]) -> Connection:
        while True:
            await asyncio.sleep(next(pauses))
            try:
                return await self._dial(Deadline.after(DIAL_TIMEOUT))
            except Exception as error:  # of whatever kind: there is nobody to tell, and the next attempt may do
                self._note(error)
