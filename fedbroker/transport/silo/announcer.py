"""Announcements of a silo: repeated when the broker returns the previous one.

A copy of each announcement is kept in the cohort's lobby. The broker returns it to the silo's mailbox when it expires
or when a new coordinator has read it. The returned copy is the cue for the next announcement.
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
"""Seconds to publish the message that the silo leaves: an exit must not wait for a broker."""

BACK_OFF: Final = 1.5
"""Factor between two intervals: a lobby that no coordinator reads sees fewer and fewer announcements."""
MAX_BACK_OFF: Final = 4.0
"""Until a coordinator admits the silo, each interval is 1.5 times the previous one, up to 4 heartbeats."""

REMEMBERED: Final = 1024
"""Coordinators per signer that are remembered as having admitted the silo; beyond that, all are forgotten."""

MIN_RETRY: Final = 0.1
"""Seconds: a coordinator that rejects us with a pause of zero must not make us flood the lobby."""
MAX_RETRY: Final = 2700.0
"""Seconds: 45 minutes is the longest pause after a rejection that our coordinator asks for."""

CHANGE: Final = "change what the reason names, as by installing the coordinator's version, and start the silo again"


class Announcer:
    """Announces a silo to its cohort, repeatedly, until it leaves.

    Args:
        control: the connection to announce on.
        bulk: the connection for blobs; without it, the silo does not announce itself.
        heartbeat: seconds between announcements.
        announcement: returns the present announcement; called for each one.
        envelope: signs an announcement.
        signers: the fingerprints of the coordinators that may write to this silo, each of which decides for itself: the
            silo pauses only while all of them have rejected it. One empty string if messages are not signed.
        sealed_only: whether the silo rejects messages that are not sealed.
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
        sealed_only: bool = False,
    ) -> None:
        self._control = control
        self._bulk = bulk
        self._heartbeat = heartbeat
        self._announcement = announcement
        self._envelope = envelope
        self._sealed_only = sealed_only
        self._paused = False
        self._cue = asyncio.Event()
        self._latest = ""
        self._interval = heartbeat
        self._accepted: dict[str, set[str]] = {signer: set() for signer in signers}  # coordinators, by signer
        self._rejected_until: dict[str, float] = dict.fromkeys(signers, -math.inf)  # until when
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to announce: now, and again on each cue. While paused, say that the silo leaves instead."""
        keep = self._keep_away() if self._paused else self._keep_announcing()
        self._task = asyncio.create_task(keep, name="announce")

    def cue(self) -> None:
        """Announce again."""
        self._cue.set()

    async def pause(self) -> bool:
        """Announce that the silo leaves, and nothing else until :meth:`resume`, across reconnections.

        Before :meth:`start`, only stop it from announcing the silo.

        Returns:
            False if the broker did not take the message in time: the cohort then misses announcements.
        """
        self._paused = True
        if not await self._halt():
            return False  # not started yet, or stopped for good
        published = await self._publish_leave()
        self.start()
        return published

    async def resume(self) -> None:
        """Announce the silo again, now."""
        self._paused = False
        self._interval = self._heartbeat
        if await self._halt():
            self.start()

    def on_returned(self, message_id: str, death: str) -> None:
        """Take a copy that the broker returned as a cue, if it is of the latest announcement.

        Copies of earlier announcements are ignored: otherwise each copy would lead to two new ones. If the copy expired
        before a coordinator admitted the silo, the next announcement may wait longer. If it was taken from the lobby, a
        new coordinator has read it, and the interval is reset. If it was removed from a full lobby, a new copy would
        only be removed again, so it is no cue. While paused, nothing is.
        """
        if self._paused or message_id != self._latest or death == "maxlen":
            return
        if death != "expired":
            self._interval = self._heartbeat
        elif not any(self._accepted.values()):
            self._interval = min(BACK_OFF * self._interval, MAX_BACK_OFF * self._heartbeat, LONGEST_HEARTBEAT)
        self._cue.set()

    def on_decision(self, decision: Accepted | Rejected, by: str = "") -> None:
        """Handle a coordinator's answer to our announcement; ``by`` is the fingerprint of its signer."""
        if decision.incarnation != self._announcement().incarnation or by not in self._accepted:
            return
        accepted, now = self._accepted[by], asyncio.get_running_loop().time()
        if isinstance(decision, Accepted):
            if decision.coordinator_id not in accepted:
                _log.info("silo_admitted", coordinator=decision.coordinator_id)
            if len(accepted) >= REMEMBERED:
                accepted.clear()
            accepted.add(decision.coordinator_id)
            self._interval = self._heartbeat
            if self._rejected_until[by] > -math.inf:  # a coordinator with the same key had rejected us: end the pause
                self._rejected_until[by] = -math.inf
                self._cue.set()
            return
        accepted.discard(decision.coordinator_id)
        if accepted:
            _log_rejection(decision)  # no pause: other coordinators have admitted us
        elif self._rejected_until[by] <= now:  # during a pause, the announcement was meant for other signers
            seconds = random.uniform(*map(_bounded, decision.retry_after))
            self._rejected_until[by] = now + seconds
            _log_rejection(decision, retry_in=round(seconds, 1))
            self._cue.set()

    async def stop(self) -> None:
        """Stop announcing and announce that the silo leaves. Takes a bounded time; errors of the broker are logged."""
        if await self._halt():
            await self._publish_leave()

    async def _halt(self) -> bool:
        """Stop the task; return False if none was running."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("announcing_failed", reason=str(error))
        return True

    async def _publish_leave(self) -> bool:
        announcement = self._announcement()
        try:
            leave = encode(Leave(announcement.cohort, announcement.silo, announcement.incarnation))
            await self._control.publish(self._outgoing(announcement, leave), Deadline.after(LEAVE_TIMEOUT))
        except BrokerError as error:
            _log.debug("departure_not_announced", reason=str(error))
            return False
        return True

    async def _keep_away(self) -> None:
        """Repeat that the silo leaves after each reconnection: an earlier message may have been lost."""
        while True:
            await self._cue.wait()
            self._cue.clear()
            await self._publish_leave()

    async def _keep_announcing(self) -> None:
        while True:
            self._cue.clear()
            pause_left = min(self._rejected_until.values()) - asyncio.get_running_loop().time()
            if pause_left <= 0:
                try:
                    await self._announce(Deadline.after(2 * self._interval + 1.0))
                except (BrokerError, WireError) as error:
                    _log.debug("announcement_failed", reason=str(error))
            pause = pause_left if pause_left > 0 else 2 * self._interval  # a restart of the broker may lose the copy
            try:
                async with asyncio.timeout(pause):
                    await self._cue.wait()
            except TimeoutError:
                pass

    async def _announce(self, deadline: Deadline) -> None:
        await self._bulk.ready(deadline)
        announcement = msgspec.structs.replace(
            self._announcement(), heartbeat=self._interval, sealed_only=self._sealed_only
        )
        self._latest = secrets.token_hex(8)
        await self._control.publish(self._outgoing(announcement, encode(announcement), self._latest), deadline)

    def _outgoing(self, announcement: Announce, body: bytes, message_id: str | None = None) -> Outgoing:
        return Outgoing(
            LOBBY,
            silo_key(announcement.cohort, announcement.silo),
            self._envelope(body),
            persistent=False,
            message_id=message_id,
            expiration=self._interval,
        )


def _log_rejection(decision: Rejected, **details: float) -> None:
    if decision.permanent:
        _log.error("silo_rejected", coordinator=decision.coordinator_id, reason=decision.reason, hint=CHANGE, **details)
    else:
        _log.warning("silo_rejected", coordinator=decision.coordinator_id, reason=decision.reason, **details)


def _bounded(seconds: float) -> float:
    """Clamp a retry time to its bounds; the order of the arguments turns NaN into the shortest."""
    return min(MAX_RETRY, max(MIN_RETRY, seconds))
