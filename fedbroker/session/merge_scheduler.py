"""Merge scheduling: which reply is merged next and which silo may upload next, so that memory stays bounded.

A reply to a client stage passes through up to five phases, from top to bottom of this module:

1. announced: the silo holds large results and waits for its turn to upload them.
2. uploading: at most :data:`UPLOADS` silos, while less than ``room`` bytes are outstanding.
3. held: its results have arrived, and wait for their turn in the merge order.
4. ready: it is merged next; the merger takes ready replies in batches.
5. released: it is merged and takes no memory any more.

Bytes are outstanding from phase 2 to phase 4. The state needs no clock, no broker and no event loop; coroutines may
wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedbroker.session.stage_state import MergeOrder
from fedbroker.wire.blobs import Buffer

__all__ = ["ROOM", "MergeScheduler", "Reply", "Upload", "upload_allowance"]

ROOM: Final = 128 << 20
"""Bytes of outstanding replies from which no further silo is told to upload; running uploads still finish."""

UPLOADS: Final = 2
"""Number of silos that upload large results at the same time: two, so that one upload follows another without a gap."""


def upload_allowance(silos: int, least: int) -> int:
    """Return the bytes of results that each of so many silos may upload without being told to; 0 for any number.

    Together they fit into :data:`ROOM`, or are ``least`` each. Being told costs a round trip. It is saved if the silos
    are few enough to upload at the same time.
    """
    return 0 if silos <= UPLOADS else max(least, ROOM // silos)


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """An announced upload.

    Attributes:
        slot: the silo's place in membership order.
        size: bytes of the results.
        granted: set when the silo may upload.
    """

    slot: int
    size: int
    granted: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """The partials of one silo; ``size`` is what its outputs take in memory."""

    silo: str
    partials: Sequence[Buffer]
    size: int


@dataclass(slots=True, eq=False)
class MergeScheduler:
    """The replies of one client stage, from their announcement until they are merged.

    Attributes:
        order: requested order of merging.
        room: see :data:`ROOM`.
        passed: silos whose replies became ready, in that order.
    """

    order: MergeOrder = "membership"
    room: int = field(default_factory=lambda: ROOM)
    passed: list[str] = field(default_factory=list[str])
    _announced: dict[str, Upload] = field(default_factory=dict[str, Upload])
    _uploading: dict[str, int] = field(default_factory=dict[str, int])
    _held: dict[str, Reply] = field(default_factory=dict[str, Reply])
    _held_bytes: int = 0
    _ready: deque[Reply] = field(default_factory=deque[Reply])
    _ready_bytes: int = 0
    _unmerged_bytes: int = 0  # ready, or taken and not released
    _other_bytes: int = 0  # of replies that are not merged here
    _batch_taken: bool = False
    _complete: bool = False
    _discarding: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self, silo: str, slot: int, size: int) -> Upload:
        """Record that a silo has large results and waits to upload them. An earlier upload of it is lost."""
        self._uploading.pop(silo, None)
        upload = self._announced[silo] = Upload(slot, size)
        self._grant()
        return upload

    def arrive(self, silo: str, partials: Sequence[Buffer], size: int) -> None:
        """Record that the outputs of a silo whose reply counts have arrived; :meth:`advance` passes them on."""
        self._uploading.pop(silo, None)
        self._held[silo] = Reply(silo, partials, size)
        self._held_bytes += size

    def hold(self, size: int) -> None:
        """Record that bytes of a reply are in memory which are not merged here: masked values, until they are added."""
        self._other_bytes += size

    def let_go(self, size: int) -> None:
        """Record that these bytes take no memory any more."""
        self._other_bytes -= size
        self._grant()

    def drop(self, silo: str) -> None:
        """Record that a silo sends nothing more."""
        self._announced.pop(silo, None)
        self._uploading.pop(silo, None)

    def advance(self, settled: Iterable[str]) -> None:
        """Pass on the replies that are due to be merged, and grant uploads for which room is left.

        Held replies never take ``room`` bytes or more: the oldest are then passed on before their turn.

        Args:
            settled: silos whose turn it is in membership order: they and all silos before them have ended.
        """
        for silo in list(self._held) if self.order == "arrival" else settled:
            if silo in self._held:
                self._pass_on(silo)
        while self._held_bytes >= self.room:
            self._pass_on(next(iter(self._held)))
        self._grant()

    def _pass_on(self, silo: str) -> None:
        reply = self._held.pop(silo)
        self._held_bytes -= reply.size
        self.passed.append(silo)
        if reply.partials and not self._discarding:
            self._ready.append(reply)
            self._ready_bytes += reply.size
            self._unmerged_bytes += reply.size
            self._changed.set()

    @property
    def outstanding(self) -> int:
        """Bytes of replies that are uploading or in memory."""
        return sum(self._uploading.values()) + self._held_bytes + self._unmerged_bytes + self._other_bytes

    def _grant(self) -> None:
        """Let silos upload, the first in the order first, while room is left."""
        while self._announced and len(self._uploading) < UPLOADS:
            if self.outstanding >= self.room:
                return
            first = next(iter(self._announced))
            if self.order == "membership":
                first = min(self._announced, key=lambda silo: self._announced[silo].slot)
            upload = self._announced.pop(first)
            self._uploading[first] = upload.size
            upload.granted.set()

    def is_batch_ready(self, max_replies: int, batch_bytes: int) -> bool:
        """Return whether so many replies or bytes are ready: merging fewer costs more than it saves."""
        return len(self._ready) >= max_replies or self._ready_bytes >= batch_bytes

    def take_batch(self, max_replies: int, batch_bytes: int) -> list[Reply] | None:
        """Take the next replies to merge: up to ``max_replies``, of up to ``batch_bytes`` or a single larger one.

        Returns:
            None while too few are ready and more may come; no reply once all of them were taken.
        """
        if not (self._complete or self.is_batch_ready(max_replies, batch_bytes)):
            return None
        batch: list[Reply] = []
        size = 0
        while self._ready and len(batch) < max_replies and (not batch or size + self._ready[0].size <= batch_bytes):
            batch.append(self._ready.popleft())
            size += batch[-1].size
        self._ready_bytes -= size
        self._batch_taken = True
        return batch

    async def next_batch(self, max_replies: int, batch_bytes: int) -> list[Reply]:
        """Wait until :meth:`take_batch` returns a batch, and return it; no reply once all of them were taken."""
        while (batch := self.take_batch(max_replies, batch_bytes)) is None:
            self._changed.clear()
            await self._changed.wait()
        return batch

    async def merge_all(
        self, merge: Callable[[Sequence[Reply]], Awaitable[None]], max_replies: int, batch_bytes: int
    ) -> None:
        """Merge replies batch after batch until all are merged, and release each batch after that.

        If merging fails, its error is raised, and the other replies are of no use and discarded.
        """
        try:
            while batch := await self.next_batch(max_replies, batch_bytes):
                try:
                    await merge(batch)
                finally:
                    self.release(batch)
        except BaseException:
            self.discard()
            raise

    def take_few(self, max_replies: int, batch_bytes: int) -> list[Reply]:
        """Take and release all replies if they are too few for a batch and none was taken before; else take none."""
        if self._batch_taken or self.is_batch_ready(max_replies, batch_bytes):
            return []
        few = self._clear()
        if few:
            self.complete()
        return few

    def release(self, batch: Iterable[Reply]) -> None:
        """Record that replies are merged, or useless, and take no memory any more."""
        self._unmerged_bytes -= sum(reply.size for reply in batch)
        self._grant()

    def complete(self) -> None:
        """Record that no reply arrives any more, so that the rest is taken in batches of any size."""
        self._complete = True
        self._changed.set()

    def discard(self) -> None:
        """Release all ready replies, and from now on each that is passed on: merging has failed."""
        self._discarding = True
        self._clear()

    def _clear(self) -> list[Reply]:
        cleared = list(self._ready)
        self._ready.clear()
        self._ready_bytes = 0
        self.release(cleared)
        return cleared

    def merge_order(self, participants: Sequence[str]) -> MergeOrder:
        """Return the order in which the participants' outputs were merged in the end."""
        return "membership" if list(participants) == self.passed else "arrival"
