"""The silo's recent replies, so that redelivered work is answered again without being done again."""

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
"""Seconds for which a reply is kept: the broker redelivers as soon as the connection is back."""


@dataclass(frozen=True, slots=True)
class _CachedReply:
    stage: int
    done: Done
    outputs: Mapping[Digest, Buffer]
    size: int
    timer: asyncio.TimerHandle


class ReplyCache:
    """Each session's latest reply, kept for some time: work for a later stage proves that the earlier reply arrived.

    A session is identified by the fingerprint of its signer, ``by``, and its id: another signer never gets its reply.

    Args:
        capacity: bytes of outputs to keep; the oldest replies are dropped first.
        linger: seconds to keep a reply.
    """

    def __init__(self, capacity: int, *, linger: float = LINGER) -> None:
        self._capacity = capacity
        self._linger = linger
        self._kept: OrderedDict[tuple[str, str], _CachedReply] = OrderedDict()
        self._bytes = 0

    @property
    def kept_bytes(self) -> int:
        """The size of all kept outputs in bytes."""
        return self._bytes

    def put(self, done: Done, outputs: Mapping[Digest, Buffer], by: str = "") -> None:
        """Keep a reply in place of the session's earlier one."""
        self.forget(done.session, by)
        size = sum(memoryview(output).nbytes for output in outputs.values())
        timer = asyncio.get_running_loop().call_later(self._linger, self.forget, done.session, by)
        self._kept[by, done.session] = _CachedReply(done.stage, done, outputs, size, timer)
        self._bytes += size
        while self._bytes > self._capacity:
            self._forget(next(iter(self._kept)))

    def get(self, session: str, stage: int, by: str = "") -> tuple[Done, Mapping[Digest, Buffer]] | None:
        """Return the reply to that stage's work and its outputs; None if it is not kept."""
        kept = self._kept.get((by, session))
        return (kept.done, kept.outputs) if kept is not None and kept.stage == stage else None

    def forget(self, session: str, by: str = "") -> None:
        """Drop a session's reply, if any."""
        self._forget((by, session))

    def clear(self) -> None:
        """Drop all replies."""
        for key in list(self._kept):
            self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            kept.timer.cancel()
            self._bytes -= kept.size
