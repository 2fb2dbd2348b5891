"""The recent work items of a silo: what was asked, by whom, and what left. In memory, bounded, without any data.

Computations are kept as they came, so that they can be described when the administrator asks; that costs the work
itself no time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from fedbroker.wire.messages import Value
from fedbroker_worker.control.views import WorkView
from fedbroker_worker.journal.entry import Outcomes, WorkEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedbroker.transport import Signed
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Source, WorkItem

__all__ = ["MOST_WORK", "WorkJournal"]

MOST_WORK: Final = 200
"""The most work items that are kept, unless more are running: some hours of a training."""

MOST_OPS: Final = 500
"""The most operations of one work item that are kept; the coordinator chooses their number."""

LARGEST_BLOB: Final = 2 << 20
KEPT_BYTES: Final = 16 << 20
"""Bytes of one blob with computations, and of all that are kept."""


@dataclass(slots=True, eq=False)
class WorkJournal:
    """The recent work items. Used on the event loop only.

    Attributes:
        names: the names of coordinators by the fingerprints of their keys.
        errors_in_full: the text of a failed computation may quote data.
        sources: returns the silo's data sources as announced.
        clock: returns seconds since 1970.
        outcomes: counters of all work items so far.
        changed: the number of the latest change.
    """

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    errors_in_full: bool = False
    sources: Callable[[], Mapping[str, Source]] = dict
    clock: Callable[[], float] = time.time
    outcomes: Outcomes = field(default_factory=Outcomes)
    changed: int = 0
    _entries: OrderedDict[int, WorkEntry] = field(default_factory=OrderedDict[int, WorkEntry])
    _earlier: list[WorkView] = field(default_factory=list[WorkView])
    _blobs: OrderedDict[str, bytes] = field(default_factory=OrderedDict[str, bytes])
    _kept_bytes: int = 0
    _numbered: int = 0
    _next_change: asyncio.Event = field(default_factory=asyncio.Event)

    def received(self, item: WorkItem, signed: Signed) -> WorkEntry:
        """Return the entry of a work item that has arrived."""
        self._numbered += 1
        now = self.clock()
        # Without the session's key, which must not outlive the session, and in a bounded size.
        kept = msgspec.structs.replace(item, ops=item.ops[:MOST_OPS], incoming={}, sealed={}, content_key="")
        entry = WorkEntry(self, self._numbered, kept, signed.by, now, time.monotonic(), since=now)
        self._entries[entry.id] = entry
        if len(self._entries) > MOST_WORK:
            ended = next((number for number, old in self._entries.items() if not old.is_running), None)
            if ended is not None:
                del self._entries[ended]
        self.note(entry)
        return entry

    def note(self, entry: WorkEntry | None = None) -> None:
        """Count a change, of an entry or else of the silo's state, and wake up those who wait for one."""
        self.changed += 1
        if entry is not None:
            entry.changed = self.changed
        self._next_change.set()
        self._next_change = asyncio.Event()

    async def wait(self, after: int, seconds: float) -> None:
        """Wait for a change after this one, for so many seconds at most."""
        until = time.monotonic() + seconds
        while self.changed <= after and (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._next_change.wait()

    def since(self, after: int, most: int) -> tuple[list[WorkView], bool]:
        """Return the work items that changed after a change, the oldest change first; and whether more have changed.

        Work items of earlier processes, from the audit log, come first; their change is number 0.
        """
        found = sorted((e for e in self._entries.values() if e.changed > after), key=lambda entry: entry.changed)
        earlier = self._earlier if after < 0 else []
        return [*earlier, *[entry.view() for entry in found[:most]]], len(found) > most

    def restore(self, earlier: Sequence[WorkView]) -> None:
        """Keep work items of earlier processes."""
        self._earlier = list(earlier)[-MOST_WORK:]

    def entry(self, number: int) -> WorkEntry | None:
        """Return an entry; None if it is no longer kept."""
        return self._entries.get(number)

    def keep(self, digest: Digest, blob: Buffer) -> bool:
        """Keep a blob with a computation if it is not too large; return whether it is kept."""
        if digest in self._blobs:
            self._blobs.move_to_end(digest)
            return True
        if len(blob) > LARGEST_BLOB:
            return False
        self._blobs[digest] = content = bytes(blob)
        self._kept_bytes += len(content)
        while self._kept_bytes > KEPT_BYTES:
            _, dropped = self._blobs.popitem(last=False)
            self._kept_bytes -= len(dropped)
        return digest in self._blobs

    def has(self, digests: Sequence[Digest]) -> bool:
        """Return whether all of these blobs are still kept; False for none."""
        return bool(digests) and all(digest in self._blobs for digest in digests)

    def blobs_of(self, entry: WorkEntry) -> dict[Digest, bytes]:
        """Return the computations of a work item that are still kept."""
        named = [op.blob for op in entry.item.ops if isinstance(op, Value)]
        return {digest: self._blobs[digest] for digest in named if digest in self._blobs}
