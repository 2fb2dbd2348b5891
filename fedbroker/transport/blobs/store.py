"""The store of received blobs: bounded in bytes, addressed by digest, with waiting for blobs that are expected."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Missing, WireError
from fedbroker.log import get_logger
from fedbroker.text import seconds_text
from fedbroker.wire.blobs import Assembler, Buffer, digest_of
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Chunk, Digest

__all__ = ["BlobStore"]

_log = get_logger(__name__)

CAPACITY: Final = 512 * 1024 * 1024
"""Default bytes of complete blobs to keep: a computation or value in the store need not be sent again."""
PATIENCE_AFTER_LOSS: Final = 5.0
"""Seconds to wait for blobs that were in flight on a lost connection: after that they count as lost."""
SWEEP: Final = 5.0
"""Seconds between two sweeps for blobs that can be dropped: a fraction of any time that they may linger."""


@dataclass(slots=True)
class _Blob:
    content: memoryview
    used: float


class BlobStore:
    """Blobs by digest: a cache bounded in bytes that evicts the least recently used blob first.

    A blob is never evicted while a caller waits for it or has pinned it. The newest blob is also kept, even if it alone
    exceeds the bound. The store returns only complete blobs whose content matches their digest. For one event loop.

    Args:
        capacity: bytes of complete blobs to keep.
        limits: bounds on incomplete blobs.
        linger: seconds after its last use when a blob is dropped; None: never.
    """

    def __init__(
        self, capacity: int = CAPACITY, *, limits: Limits = DEFAULT_LIMITS, linger: float | None = None
    ) -> None:
        self._capacity = capacity
        self._linger = linger
        self._assembler = Assembler(limits)
        self._blobs: OrderedDict[Digest, _Blob] = OrderedDict()
        self._bytes = 0
        self._pins: Counter[Digest] = Counter()
        self._shared: set[Digest] = set()  # no longer needed by one caller, while others waited for the same blob
        self._damaged: dict[Digest, str] = {}
        self._progress = 0.0
        self._lost_at = -math.inf
        self._changed = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """Bytes of the complete blobs."""
        return self._bytes

    @property
    def pending_bytes(self) -> int:
        """Bytes of the incomplete blobs."""
        return self._assembler.pending_bytes

    def __contains__(self, digest: object) -> bool:
        """Return whether the store holds the complete blob."""
        return digest in self._blobs

    def put(self, data: Buffer) -> Digest:
        """Keep a copy of a complete blob and return its digest."""
        digest = digest_of(data)
        self.keep(digest, memoryview(bytes(data)))
        return digest

    def keep(self, digest: Digest, content: memoryview) -> None:
        """Keep a complete blob whose content is known to match its digest."""
        if self._closed:
            return
        self.discard(digest)
        self._assembler.drop(digest)
        self._damaged.pop(digest, None)
        self._blobs[digest] = _Blob(content, asyncio.get_running_loop().time())
        self._bytes += len(content)
        self._evict()
        self._schedule()
        self._changed.set()

    def accept(self, chunk: Chunk, data: Buffer) -> None:
        """Accept one chunk.

        Raises:
            WireError: the chunk is refused: too large, contradicts another, out of bounds, or completes a damaged blob.
        """
        now = asyncio.get_running_loop().time()
        self._progress = now
        blob = self._blobs.get(chunk.digest)
        if blob is not None:
            blob.used = now
            self._blobs.move_to_end(chunk.digest)
            return
        try:
            content = self._assembler.add(chunk, data, now)
        except WireError as error:
            self.refuse(chunk.digest, error.what)
            raise
        self._damaged.pop(chunk.digest, None)
        self._schedule()
        if content is not None:
            self.keep(chunk.digest, content)

    def refuse(self, digest: Digest, why: str) -> None:
        """Drop the received chunks of an invalid blob; callers that wait for it get ``Missing``."""
        self._assembler.drop(digest)
        if digest in self._pins and digest not in self._blobs:
            self._damaged[digest] = why
            self._changed.set()

    async def get(self, digest: Digest, deadline: Deadline, patience: float = 5.0) -> memoryview:
        """Return a blob (read-only) as soon as it is complete.

        Args:
            digest: the blob's digest.
            deadline: by which it must be complete.
            patience: seconds without progress of any blob, after which this one counts as lost.

        Raises:
            Missing: no progress for ``patience`` seconds, or the received chunks were refused or damaged.
            DeadlineExceeded: ``deadline`` passed.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        with self.pinned([digest]):
            while (blob := self._blobs.get(digest)) is None:
                if self._closed or digest in self._damaged:
                    raise Missing(digest, self._damaged.get(digest, "the connection was closed"))
                if deadline.passed():
                    raise DeadlineExceeded(f"blob {digest} did not arrive in time")
                allowed = self._allowed(patience, started)
                left = max(started, self._progress, self._lost_at) + allowed - loop.time()
                if left <= 0:
                    raise Missing(digest, f"nothing came for {seconds_text(allowed)}")
                await self._wait(min(left, deadline.left()))
            blob.used = loop.time()
            self._blobs.move_to_end(digest)
            return blob.content

    def connection_lost(self) -> None:
        """Note a loss of the connection: blobs in flight count as lost unless they arrive again soon."""
        self._lost_at = asyncio.get_running_loop().time()
        self._changed.set()

    def discard(self, digest: Digest) -> None:
        """Drop a blob if the store holds it."""
        self._shared.discard(digest)
        blob = self._blobs.pop(digest, None)
        if blob is not None:
            self._bytes -= len(blob.content)

    def spent(self, digest: Digest) -> None:
        """Drop a blob that its caller does not need again.

        If another caller waits for the same blob, chunks of it may still be in flight. Then the blob is kept like any
        other, so that these chunks are recognised as duplicates.
        """
        if self._pins[digest] > 0:
            self._shared.add(digest)
        elif digest in self._shared:
            self._shared.discard(digest)
        else:
            self.discard(digest)

    @contextmanager
    def pinned(self, digests: Iterable[Digest]) -> Generator[None]:
        """Protect blobs from eviction within the block, also blobs that arrive during it."""
        pinned = list(digests)
        self._pins.update(pinned)
        try:
            yield
        finally:
            for digest in pinned:
                self._pins[digest] -= 1
                if self._pins[digest] == 0:
                    del self._pins[digest]
                    self._damaged.pop(digest, None)
            self._evict()

    def close(self) -> None:
        """Drop all blobs; waiting callers get ``Missing``."""
        self._closed = True
        self._blobs.clear()
        self._bytes = 0
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._changed.set()

    def _allowed(self, patience: float, started: float) -> float:
        """Return the patience, shortened if the connection was lost shortly before the wait began, or during it."""
        return min(patience, PATIENCE_AFTER_LOSS) if self._lost_at >= started - patience else patience

    def _evict(self) -> None:
        """Evict blobs until the bound holds: least recently used first, never the newest and never a pinned one."""
        for digest in list(self._blobs)[:-1]:
            if self._bytes <= self._capacity:
                return
            if digest not in self._pins:
                self.discard(digest)

    async def _wait(self, seconds: float) -> None:
        """Wait for any change, at most so many seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _schedule(self) -> None:
        """Schedule the next sweep if any blob can become stale."""
        may_become_stale = len(self._assembler) > 0 or (self._linger is not None and len(self._blobs) > 0)
        if self._sweeping is None and may_become_stale and not self._closed:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        for digest in self._assembler.sweep(now):
            _log.warning("blob_abandoned", digest=digest)
        if self._linger is not None:
            before = now - self._linger
            stale = [digest for digest, blob in self._blobs.items() if blob.used <= before and digest not in self._pins]
            for digest in stale:
                self.discard(digest)
        self._schedule()
