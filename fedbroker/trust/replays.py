"""Replay protection: accepted messages, remembered for as long as a copy of them could be accepted again.

Memory is bounded without a gap: when a signer's oldest entry has to be removed, messages of that signer that were
written before it are refused from then on, unless they are among the remaining entries. Each signer has its own share:
one coordinator cannot displace another's entries. Plain state with the time passed in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from fedbroker.errors import Forged

__all__ = ["MOST", "Accepted", "AcceptedMessages"]

MOST: Final = 16_384
"""The most entries of one signer."""

_COPIES: Final = "find out who sends messages again at the broker"


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
    entries: OrderedDict[str, tuple[Accepted, str]] = field(default_factory=OrderedDict)  # with its message id
    limit: float = -math.inf


class AcceptedMessages:
    """The messages of all signers.

    Args:
        most: entries of one signer.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._signers: dict[str, _Signer] = {}

    def __iter__(self) -> Iterator[Accepted]:
        """Yield each signer's limit, where it has one, and its entries, oldest first."""
        for by, signer in self._signers.items():
            if signer.limit > -math.inf:
                yield Accepted(by, "", signer.limit)
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
            Forged: it was accepted before under another message id, or it is so old that this is no longer known.
        """
        signer = self._signers.setdefault(message.by, _Signer())
        known = signer.entries.get(message.nonce)
        if known is not None:
            if known[1] != message_id:
                raise Forged("work that was here before came again as another message", hint=_COPIES)
            return True
        if message.issued <= signer.limit:
            raise Forged("a message is older than thousands of later ones, and may be a copy", hint=_COPIES)
        self._put(signer, message, message_id, now)
        return False

    def restore(self, entries: Iterable[Accepted], now: float) -> None:
        """Record messages that an earlier process accepted: they are refused under any message id."""
        for entry in entries:
            signer = self._signers.setdefault(entry.by, _Signer())
            if not entry.nonce:
                signer.limit = max(signer.limit, entry.issued)
            elif entry.until >= now and entry.nonce not in signer.entries:
                self._put(signer, entry, "", now)

    def _put(self, signer: _Signer, entry: Accepted, message_id: str, now: float) -> None:
        signer.entries[entry.nonce] = entry, message_id
        while signer.entries:
            oldest, _ = next(iter(signer.entries.values()))
            if oldest.until >= now:
                if len(signer.entries) <= self._most:
                    return
                signer.limit = max(signer.limit, oldest.issued)
            del signer.entries[oldest.nonce]
