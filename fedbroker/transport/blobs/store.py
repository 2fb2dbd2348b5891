"""Complete blobs by digest, within bounds, and whoever waits for one. Imports wire and the base."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Missing, WireError
from fedbroker.log import get_logger
from fedbroker.quantities import seconds_text
from fedbroker.wire.blobs import Assembler, Buffer, digest_of
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Chunk, Digest

__all__ = ["BlobStore"]

_log = get_logger(__name__)

CAPACITY: Final = 512 * 1024 * 1024
PATIENCE_AFTER_A_CUT: Final = 5.0
"""Seconds in which whatever a lost connection held comes again, or does not."""
SWEEP: Final = 5.0
"""Seconds between looks for what can be forgotten."""


@dataclass(slots=True)
class _Kept:
    content: memoryview
    used: float


class BlobStore:
    """Blobs by their digest: a cache bounded in bytes, least recently used out first.

    A blob that somebody waits for or has pinned stays, and so does the one that came last, even where it alone is
    larger than the bound. Only complete blobs whose content fits their name are ever handed out. For one event loop.

    Args:
        capacity: bytes of complete blobs to keep.
        limits: bounds on what is still incomplete.
        linger: seconds after which a blob that nobody asked for again is forgotten; None: never.
    """

    def __init__(
        self, capacity: int = CAPACITY, *, limits: Limits = DEFAULT_LIMITS, linger: float | None = None
    ) -> None:
        self._capacity = capacity
        self._linger = linger
        self._assembler = Assembler(limits)
        self._kept: OrderedDict[Digest, _Kept] = OrderedDict()
        self._bytes = 0
        self._pins: Counter[Digest] = Counter()
        self._shared: set[Digest] = set()  # spent by one, while others waited for the same
        self._damaged: dict[Digest, str] = {}
        self._progress = 0.0
        self._cut = -math.inf
        self._changed = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """What the complete blobs take."""
        return self._bytes

    @property
    def pending_bytes(self) -> int:
        """What the incomplete blobs take."""
        return self._assembler.pending_bytes

    def __contains__(self, digest: object) -> bool:
        """Whether the blob is here and complete."""
        return digest in self._kept

    def put(self, data: Buffer) -> Digest:
        """Keep a copy of a blob that is complete; its name."""
        digest = digest_of(data)
        self.keep(digest, memoryview(bytes(data)))
        return digest

    def keep(self, digest: Digest, content: memoryview) -> None:
        """Keep a blob that is complete, and known to be what its name says."""
        if self._closed:
            return
        self.discard(digest)
        self._assembler.drop(digest)
        self._damaged.pop(digest, None)
        self._kept[digest] = _Kept(content, asyncio.get_running_loop().time())
        self._bytes += len(content)
        self._evict()
        self._schedule()
        self._wake()

    def accept(self, chunk: Chunk, data: Buffer) -> None:
        """Take in one piece.

        Raises:
            WireError: it is refused: too large, contradicts another, out of bounds, or it completes a damaged blob.
        """
        now = asyncio.get_running_loop().time()
        self._progress = now
        kept = self._kept.get(chunk.digest)
        if kept is not None:
            kept.used = now
            self._kept.move_to_end(chunk.digest)
            return
        try:
            whole = self._assembler.add(chunk, data, now)
        except WireError as error:
            self.refuse(chunk.digest, error.what)
            raise
        self._damaged.pop(chunk.digest, None)
        self._schedule()
        if whole is not None:
            self.keep(chunk.digest, whole)

    def refuse(self, digest: Digest, why: str) -> None:
        """A piece of that blob makes no sense: drop what is incomplete of it; whoever waits for it gets ``Missing``."""
        self._assembler.drop(digest)
        if digest in self._pins and digest not in self._kept:
            self._damaged[digest] = why
            self._wake()

    async def get(self, digest: Digest, deadline: Deadline, patience: float = 5.0) -> memoryview:
        """The blob (read-only), as soon as it is complete.

        Args:
            digest: its name.
            deadline: by which it must be there.
            patience: seconds without any progress on the lane, of this or any other blob, after which this one counts
                as lost.

        Raises:
            Missing: no progress for ``patience`` seconds, or what came was refused or damaged.
            DeadlineExceeded: ``deadline`` passed.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        with self.pinned([digest]):
            while (kept := self._kept.get(digest)) is None:
                if self._closed or digest in self._damaged:
                    raise Missing(digest, self._damaged.get(digest, "the connection was closed"))
                if deadline.passed():
                    raise DeadlineExceeded(f"blob {digest} was not there in time")
                allowed = self._allowed(patience, started)
                left = max(started, self._progress, self._cut) + allowed - loop.time()
                if left <= 0:
                    raise Missing(digest, f"nothing came for {seconds_text(allowed)}")
                await self._wait(min(left, deadline.left()))
            kept.used = loop.time()
            self._kept.move_to_end(digest)
            return kept.content

    def cut(self) -> None:
        """The connection was lost, and what was on its way with it, unless it comes again soon."""
        self._cut = asyncio.get_running_loop().time()
        self._wake()

    def discard(self, digest: Digest) -> None:
        """Forget a blob, if it is here."""
        self._shared.discard(digest)
        kept = self._kept.pop(digest, None)
        if kept is not None:
            self._bytes -= len(kept.content)

    def spent(self, digest: Digest) -> None:
        """Forget a blob that will not be asked for again.

        Where somebody else waits for the same, pieces of theirs may still be on their way: it stays for as long as any
        other, so that those are known for what they are.
        """
        if self._pins[digest] > 0:
            self._shared.add(digest)
        elif digest in self._shared:
            self._shared.discard(digest)
        else:
            self.discard(digest)

    @contextmanager
    def pinned(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Within the block none of these is evicted once it is here."""
        mine = list(digests)
        self._pins.update(mine)
        try:
            yield
        finally:
            for digest in mine:
                self._pins[digest] -= 1
                if self._pins[digest] == 0:
                    del self._pins[digest]
                    self._damaged.pop(digest, None)
            self._evict()

    def close(self) -> None:
        """Forget everything; whoever waits gets ``Missing``."""
        self._closed = True
        self._kept.clear()
        self._bytes = 0
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._wake()

    def _allowed(self, patience: float, started: float) -> float:
        """Less, where the connection was lost a short while before somebody began to wait, or since."""
        return min(patience, PATIENCE_AFTER_A_CUT) if self._cut >= started - patience else patience

    def _evict(self) -> None:
        """Bring the complete blobs under the bound: the least recently used first, never the newest, never a pinned."""
        for digest in list(self._kept)[:-1]:
            if self._bytes <= self._capacity:
                return
            if digest not in self._pins:
                self.discard(digest)

    async def _wait(self, seconds: float) -> None:
        """Wait for any change, but not longer."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _wake(self) -> None:
        self._changed.set()

    def _schedule(self) -> None:
        """Look again later, as long as there is something that time makes useless."""
        useless_one_day = len(self._assembler) > 0 or (self._linger is not None and len(self._kept) > 0)
        if self._sweeping is None and useless_one_day and not self._closed:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        for digest in self._assembler.sweep(now):
            _log.warning("blob given up", digest=digest)
        if self._linger is not None:
            before = now - self._linger
            old = [digest for digest, kept in self._kept.items() if kept.used <= before and digest not in self._pins]
            for digest in old:
                self.discard(digest)
        self._schedule()
