"""How a silo stays known: it announces itself, and the broker's own timers tell it when to do so again.

A copy of each announcement lies in the cohort's lobby. The broker sends it back to the silo's mailbox when its time is
up or a new coordinator has read it: that is the cue for the next one. Imports transport's own modules, wire and the
base.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, WireError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.message import Outgoing
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.topology import LOBBY, LONGEST_HEARTBEAT, silo_key
from fedbroker.wire.codec import encode
from fedbroker.wire.messages import Accepted, Announce, Leave, Rejected

__all__ = ["Announcer"]

_log = get_logger(__name__)

LEAVE_TIMEOUT: Final = 1.0

BACK_OFF: Final = 1.5
LONGEST_BACK_OFF: Final = 4.0
"""While no coordinator has taken us in, each announcement waits longer for one, up to so many heartbeats."""

REMEMBERED: Final = 1024

SHORTEST_RETRY: Final = 0.1
LONGEST_RETRY: Final = 2700.0
"""Seconds: bounds on how long a coordinator may send a silo away; 45 minutes is the longest that ours asks for."""

CHANGE: Final = "change what the reason names, as by installing the coordinator's version, and start the silo again"


class Announcer:
    """A silo's word that it is there, kept fresh until it leaves.

    Args:
        control: where to announce.
        bulk: a silo that cannot receive blobs just now does not announce itself.
        heartbeat: seconds between announcements.
        announcement: what to say; asked anew each time.
        envelope: puts what is said into an envelope.
        signers: the fingerprints of the coordinators that may write to this silo. Each speaks for itself: the silo
            stays away only while every one of them has sent it away. One empty one where nothing is signed.
    """

    def __init__(
        self,
        control: ReconnectingConnection,
        bulk: ReconnectingConnection,
        heartbeat: float,
        announcement: Callable[[], Announce],
        *,
        envelope: Callable[[bytes], bytes] = lambda body: body,
        signers: Collection[str] = ("",),
    ) -> None:
        self._control = control
        self._bulk = bulk
        self._heartbeat = heartbeat
        self._announcement = announcement
        self._envelope = envelope
        self._cue = asyncio.Event()
        self._latest = ""
        self._interval = heartbeat
        self._accepted: dict[str, set[str]] = {signer: set() for signer in signers}  # coordinators, by signer
        self._sent_away: dict[str, float] = dict.fromkeys(signers, -math.inf)  # until when
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Announce now, and again on each cue."""
        self._task = asyncio.create_task(self._keep_announcing(), name="announce")

    def cue(self) -> None:
        """Announce again."""
        self._cue.set()

    def returned(self, message_id: str, death: str) -> None:
        """The broker sent a copy back: a cue, if it is of the latest announcement (else each would breed two).

        One that died of old age, while no coordinator has taken us in, was read by nobody: the next may wait longer.
        One that was taken from the lobby was read by a coordinator that has just come. One that had to make room in a
        lobby that is full would only have to again.
        """
        if message_id != self._latest or death == "maxlen":
            return
        if death != "expired":
            self._interval = self._heartbeat
        elif not any(self._accepted.values()):
            self._interval = min(BACK_OFF * self._interval, LONGEST_BACK_OFF * self._heartbeat, LONGEST_HEARTBEAT)
        self._cue.set()

    def answered(self, word: Accepted | Rejected, by: str = "") -> None:
        """Take a coordinator's answer to our announcement; ``by`` is the fingerprint of its signer."""
        if word.incarnation != self._announcement().incarnation or by not in self._accepted:
            return
        accepted, now = self._accepted[by], asyncio.get_running_loop().time()
        if isinstance(word, Accepted):
            if word.coordinator not in accepted:
                _log.info("taken in", coordinator=word.coordinator)
            if len(accepted) >= REMEMBERED:
                accepted.clear()
            accepted.add(word.coordinator)
            self._interval = self._heartbeat
            if self._sent_away[by] > -math.inf:  # by another one of the same key: this one is to hear of us
                self._sent_away[by] = -math.inf
                self._cue.set()
            return
        accepted.discard(word.coordinator)
        if accepted:
            _log_rejection(word)  # we stay for those who took us in
        elif self._sent_away[by] <= now:  # else it answers an announcement that is for the others
            seconds = random.uniform(*map(_bounded, word.retry))
            self._sent_away[by] = now + seconds
            _log_rejection(word, asking_again_in=round(seconds, 1))
            self._cue.set()

    async def stop(self) -> None:
        """Announce no more and say goodbye; bounded in time, never raises for the broker."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("announcing had failed", reason=str(error))
        said = self._announcement()
        try:
            leave = encode(Leave(said.cohort, said.silo, said.incarnation))
            await self._control.publish(self._outgoing(said, leave), Deadline.after(LEAVE_TIMEOUT))
        except BrokerError as error:
            _log.debug("goodbye not sent", reason=str(error))

    async def _keep_announcing(self) -> None:
        while True:
            self._cue.clear()
            away = min(self._sent_away.values()) - asyncio.get_running_loop().time()
            if away <= 0:
                try:
                    await self._announce(Deadline.after(2 * self._interval + 1.0))
                except (BrokerError, WireError) as error:
                    _log.debug("silo not announced", reason=str(error))
            patience = away if away > 0 else 2 * self._interval  # the copy may be lost, as with a broker's restart
            try:
                async with asyncio.timeout(patience):
                    await self._cue.wait()
            except TimeoutError:
                pass

    async def _announce(self, deadline: Deadline) -> None:
        await self._bulk.ready(deadline)
        said = msgspec.structs.replace(self._announcement(), heartbeat=self._interval)
        self._latest = secrets.token_hex(8)
        await self._control.publish(self._outgoing(said, encode(said), self._latest), deadline)

    def _outgoing(self, said: Announce, body: bytes, message_id: str | None = None) -> Outgoing:
        return Outgoing(
            LOBBY,
            silo_key(said.cohort, said.silo),
            self._envelope(body),
            persistent=False,
            message_id=message_id,
            expiration=self._interval,
        )


def _log_rejection(word: Rejected, **details: float) -> None:
    if word.never:
        _log.error("sent away", coordinator=word.coordinator, reason=word.reason, hint=CHANGE, **details)
    else:
        _log.warning("sent away", coordinator=word.coordinator, reason=word.reason, **details)


def _bounded(seconds: float) -> float:
    """Within the bounds; the order of the arguments makes of NaN the shortest."""
    return min(LONGEST_RETRY, max(SHORTEST_RETRY, seconds))
