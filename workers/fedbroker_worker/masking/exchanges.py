"""The exchanges of a silo: by signer, session and stage, for a bounded time and number."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from fedbroker.log import get_logger
from fedbroker_worker.masking.exchange import Exchange, MaskCounters
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from fedbroker.deadline import Deadline
    from fedbroker.transport import Signed
    from fedbroker.wire.messages import MaskNotice, WorkItem
    from fedbroker_worker.masking.exchange import Key, Sender
    from fedbroker_worker.masking.requests import CheckedRequest
    from fedbroker_worker.policy.audit import AuditLog

__all__ = ["Exchanges"]

_log = get_logger(__name__)

MAX_EXCHANGES: Final = 256
"""The most exchanges of one coordinator: as many as the sessions that a silo holds by default."""

MAX_SECONDS: Final = 86_400.0
"""The most seconds for which an exchange waits for its next notice, as for a session's lease."""


class Exchanges:
    """The exchanges of a silo, by signer, session and stage.

    Args:
        incarnation: the id of this process.
        send: sends a step.
        audit: the audit log; None for no log.

    Attributes:
        counters: counters of all masked sums.
    """

    def __init__(self, incarnation: str, send: Sender, audit: AuditLog | None) -> None:
        self._incarnation, self._send, self._audit = incarnation, send, audit
        self._open: dict[Key, Exchange] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()
        self.counters: Final = MaskCounters()

    def find(self, item: WorkItem, by: str) -> Exchange | None:
        """Return the exchange of a work item, if it was begun here."""
        return self._open.get((by, item.session_id, item.stage))

    async def begin(self, item: WorkItem, signed: Signed, checked: CheckedRequest) -> Exchange:
        """Begin an exchange, and send this silo's offer.

        Raises:
            MaskingError: see :meth:`fedbroker.masking.silo.SiloMasking.with_dropouts`.
        """
        contributors = checked.request.contributors()
        start = partial(checked.masking.with_dropouts, checked.members, checked.occasion, checked.roster, contributors)
        dropout_sum = await in_thread(start, "masked sum")
        exchange = Exchange(
            item,
            signed,
            checked,
            dropout_sum,
            self._incarnation,
            self._send,
            self._audit,
            self._changed.set,
            self.counters,
        )
        self._make_room(signed.by)
        self._open[exchange.key] = exchange
        self.keep(exchange, item.timeout + item.lease)
        exchange.send_offer()
        return exchange

    def repeat_offer(self, item: WorkItem, by: str) -> None:
        """Send the offer of a running work item again: a coordinator that has restarted asks for the work once more."""
        exchange = self.find(item, by)
        if exchange is not None and not exchange.is_shared:
            exchange.send_offer()

    def on_notice(self, notice: MaskNotice, content: bytes, by: str) -> None:
        """Handle a notice; ignore one that is for another process or an exchange that is over.

        Args:
            notice: the notice.
            content: its content.
            by: the fingerprint of its signer: only exchanges of the same signer get it.
        """
        exchange = self._open.get((by, notice.session_id, notice.stage))
        if exchange is None or notice.incarnation != self._incarnation:
            _log.info("mask_notice_ignored", session=notice.session_id, stage=notice.stage, reason="unknown")
            return
        exchange.on_notice(notice, content)

    def keep(self, exchange: Exchange, seconds: float) -> None:
        """Keep an exchange for some seconds from now on."""
        if self._open.get(exchange.key) is exchange:
            self._cancel_timer(exchange.key)
            loop = asyncio.get_running_loop()
            self._timers[exchange.key] = loop.call_later(min(seconds, MAX_SECONDS), self.forget, exchange)

    def forget(self, exchange: Exchange) -> None:
        """End an exchange, and forget its secrets."""
        if self._open.get(exchange.key) is exchange:
            self._cancel_timer(exchange.key)
            del self._open[exchange.key]
            self._changed.set()
        exchange.close()

    def end(self, session: str, by: str) -> None:
        """End all exchanges of a signer's session."""
        for exchange in [exchange for key, exchange in self._open.items() if key[:2] == (by, session)]:
            self.forget(exchange)

    async def answered(self, deadline: Deadline) -> None:
        """Wait until no exchange waits for a notice after its reply, or until the deadline."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline.left()):
                while any(exchange.is_masked and not exchange.is_revealed for exchange in self._open.values()):
                    self._changed.clear()
                    await self._changed.wait()

    def close(self) -> None:
        """End all exchanges."""
        for exchange in list(self._open.values()):
            self.forget(exchange)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _make_room(self, by: str) -> None:
        """End the oldest exchange of a signer that has too many; no signer ends those of another."""
        own = [exchange for key, exchange in self._open.items() if key[0] == by]
        if len(own) >= MAX_EXCHANGES:
            self.forget(own[0])
