"""Answers that a silo remembers, so that work which the broker delivers again is answered again, not done again.

Imports wire's messages only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Done

__all__ = ["ReplyCache"]

LINGER: Final = 300.0
"""Seconds for which an answer is remembered: the broker delivers again as soon as a connection is back."""


@dataclass(frozen=True, slots=True)
class _CachedReply:
    stage: int
    done: Done
    outputs: Mapping[Digest, Buffer]
    size: int
    timer: asyncio.TimerHandle


class ReplyCache:
    """Each session's latest answer, for a while: work for a later stage proves that it has arrived.

    A session is known by the fingerprint of its signer, ``by``, and its id: another signer is never answered with it.

    Args:
        capacity: bytes of outputs to keep; the oldest answers go first.
        linger: seconds to keep an answer.
    """

    def __init__(self, capacity: int, *, linger: float = LINGER) -> None:
        self._capacity = capacity
        self._linger = linger
        self._kept: OrderedDict[tuple[str, str], _CachedReply] = OrderedDict()
        self._bytes = 0

    @property
    def kept_bytes(self) -> int:
        """What the outputs take."""
        return self._bytes

    def put(self, done: Done, outputs: Mapping[Digest, Buffer], by: str = "") -> None:
        """Remember an answer in place of the session's earlier one."""
        self.forget(done.session, by)
        size = sum(memoryview(output).nbytes for output in outputs.values())
        timer = asyncio.get_running_loop().call_later(self._linger, self.forget, done.session, by)
        self._kept[by, done.session] = _CachedReply(done.stage, done, outputs, size, timer)
        self._bytes += size
        while self._bytes > self._capacity:
            self._forget(next(iter(self._kept)))

    def get(self, session: str, stage: int, by: str = "") -> tuple[Done, Mapping[Digest, Buffer]] | None:
        """The answer to that stage's work, if it is remembered."""
        kept = self._kept.get((by, session))
        return (kept.done, kept.outputs) if kept is not None and kept.stage == stage else None

    def forget(self, session: str, by: str = "") -> None:
        """Forget a session's answer, if there is one."""
        self._forget((by, session))

    def clear(self) -> None:
        """Forget everything."""
        for key in list(self._kept):
            self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept.timer.cancel()
            self._bytes -= kept.size
