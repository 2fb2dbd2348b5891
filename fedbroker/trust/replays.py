"""Replay protection: accepted messages, remembered for as long as a copy of them could be accepted again.

Memory is bounded without a gap: when a signer's oldest entry has to be removed, messages of that signer that were
written before it are refused from then on, unless they are among the remaining entries. Each signer has its own share:
one coordinator cannot displace another's entries.

A clock may jump ahead and back. So the latest of the entries that were forgotten as expired is remembered, and each
message that may be one of them is refused. By a clock that only goes on, all of these have expired and are refused in
any case. Plain state with the time passed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from fedbroker.errors import Forged

__all__ = ["MAX_ENTRIES", "Accepted", "AcceptedMessages"]

MAX_ENTRIES: Final = 16_384
"""The most entries of one signer: they take about 6 MiB."""

_COPIES: Final = "find out who sends messages again at the broker"
_CLOCKS: Final = "set the clocks of both sides, and send the work again"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted message.

    Attributes:
        by: the fingerprint of its signer.
        nonce: the random bytes of its signature header, as hexadecimal digits; empty in an entry that only holds a
            signer's limit: its messages written up to ``issued`` are refused.
        issued: time of writing, in seconds since 1970 on the signer's clock.
        until: time from which a copy is refused because of its age.
    """

    by: str
    nonce: str
    issued: float
    until: float = math.inf


@dataclass(slots=True)
class _Signer:
    # The accepted messages by nonce, oldest first, with their message ids.
    entries: dict[str, tuple[Accepted, str]] = field(default_factory=dict[str, tuple[Accepted, str]])
    limit: float = -math.inf
    # Of those that were forgotten as expired: the latest time of writing, and the latest end.
    expired_issued: float = -math.inf
    expired_until: float = -math.inf

    def forget(self, expired: Accepted) -> None:
        """Refuse, from now on, what may be an entry that was forgotten as expired."""
        self.expired_issued = max(self.expired_issued, expired.issued)
        self.expired_until = max(self.expired_until, expired.until)


class AcceptedMessages:
    """The messages of all signers.

    Args:
        max_entries: the most entries of one signer.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._signers: dict[str, _Signer] = {}

    def __iter__(self) -> Iterator[Accepted]:
        """Yield each signer's limits, where it has any, and its entries, oldest first."""
        for by, signer in self._signers.items():
            if signer.limit > -math.inf:
                yield Accepted(by, "", signer.limit)
            if signer.expired_until > -math.inf:
                yield Accepted(by, "", signer.expired_issued, signer.expired_until)
            for entry, _ in signer.entries.values():
                yield entry

    def accept(self, message: Accepted, message_id: str, now: float) -> bool:
        """Record a message as accepted.

        Args:
            message: the message, whose signature and time were checked.
            message_id: its AMQP message id; the broker may deliver the same message again.
            now: seconds since 1970.

        Returns:
            True if it was accepted before, under the same message id.

        Raises:
            Forged: it was accepted before under another message id, or it is so old that this is no longer known, or
                was forgotten by a clock that has gone back since.
        """
        signer = self._signers.setdefault(message.by, _Signer())
        known = signer.entries.get(message.nonce)
        if known is not None:
            if known[1] != message_id:
                raise Forged("a work item was received again as another message", hint=_COPIES)
            return True
        if message.issued <= signer.limit:
            raise Forged("a message is older than thousands of later ones, and may be a replay", hint=_COPIES)
        if message.issued <= signer.expired_issued and message.until <= signer.expired_until:
            raise Forged("a message had expired by a clock that was set back since, and may be a replay", hint=_CLOCKS)
        self._put(signer, message, message_id, now)
        return False

    def restore(self, entries: Iterable[Accepted], now: float) -> None:
        """Record messages that an earlier process accepted: they are refused under any message id."""
        for entry in entries:
            signer = self._signers.setdefault(entry.by, _Signer())
            if not entry.nonce and entry.until == math.inf:
                signer.limit = max(signer.limit, entry.issued)
            elif not entry.nonce or entry.until < now:
                signer.forget(entry)
            elif entry.nonce not in signer.entries:
                self._put(signer, entry, "", now)

    def _put(self, signer: _Signer, entry: Accepted, message_id: str, now: float) -> None:
        signer.entries[entry.nonce] = entry, message_id
        while signer.entries:
            oldest, _ = next(iter(signer.entries.values()))
            if oldest.until < now:
                signer.forget(oldest)
            elif len(signer.entries) <= self._max_entries:
                return
            else:
                signer.limit = max(signer.limit, oldest.issued)
            del signer.entries[oldest.nonce]
