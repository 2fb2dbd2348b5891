"""The lines of one work item in the audit log: the first when it begins, the second when it ends.

The first line is in the file before data are read, and stays there if the silo is killed. Both lines are synced to disk
together, before anything leaves: two syncs would wait twice for a slow disk.

Work that neither reads data nor uses values of an earlier stage has only the second line.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fedbroker.log import get_logger
from fedbroker.wire.messages import Data, Done, Failed
from fedbroker_worker.errors import WorkRefused
from fedbroker_worker.policy.audit import BEGUN, INTERRUPTED, NONCES, now, why_full
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedbroker.graphs.expressions import Value as Label
    from fedbroker.transport import Signed
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Need, WorkItem
    from fedbroker_worker.control.views import WorkState
    from fedbroker_worker.journal.entry import WorkEntry
    from fedbroker_worker.policy.audit import AuditLog

__all__ = ["SESSION_CANCELLED", "AuditNotWritten", "Recording", "first_line", "last_line"]

_log = get_logger(__name__)

SESSION_CANCELLED: Final = "its coordinator cancelled the session"
"""The reason of a cancellation after which no other process of the silo does the work."""

LAST_LINE_SECONDS: Final = 5.0
"""Time limit for the last line of cancelled work, so that a disk that hangs does not keep a silo from stopping."""


class AuditNotWritten(WorkRefused):
    """A line of the audit log cannot be written: nothing leaves."""

    def __init__(self, error: OSError) -> None:
        full = why_full(error)
        super().__init__("the silo's audit log cannot be written" + (full and f": {full}"), hint="see the silo's log")


def first_line(item: WorkItem, signed: Signed) -> dict[str, object]:
    """Return the line that is written before data are read: the request and its sender.

    Args:
        item: the work item.
        signed: its signer and nonces.
    """
    return {
        "time": now(),
        "silo": item.silo,
        "coordinator": item.coordinator_id,
        "signed_by": signed.by,
        NONCES: list(signed.nonces),
        "session": item.session_id,
        "claimed_name": item.computation,
        "stage": item.stage,
        "clients": item.clients,
        "sources": [
            {
                "name": op.name,
                "columns": [name for name, _ in op.columns],
                "types": [dtype for _, dtype in op.columns],
            }
            for op in item.ops
            if isinstance(op, Data)
        ],
        "outcome": BEGUN,
    }


def last_line(
    item: WorkItem,
    reply: Done | Failed | Need | str,
    computations: Sequence[str],
    signed: Signed,
    begun: str = "",
    releases: Sequence[str] = (),
) -> dict[str, object]:
    """Return the line that is written when work is over: the request, its sender and the outputs.

    Args:
        item: the work item.
        reply: the reply that leaves; text that says why, for work that was cancelled.
        computations: SHA-256 of each computation and sequence in it that was examined.
        signed: its signer and nonces.
        begun: the hash of the first line; empty without a first line.
        releases: the values that the reply releases, in words.
    """
    outputs: Sequence[tuple[str, int]] = ()
    rule, why = "", ""
    match reply:
        case Done():
            outcome, outputs = "answered", reply.outputs
        case Failed():
            outcome, rule, why = "refused" if reply.rule else "failed", reply.rule, reply.cause
        case str():
            outcome, why = "cancelled" if reply == SESSION_CANCELLED else INTERRUPTED, reply
        case _:
            outcome, why = "lacking", "blobs did not arrive"
    return {
        **first_line(item, signed),
        "computations": list(computations),
        "outcome": outcome,
        "rule": rule,
        "why": why,
        "outputs": [digest for digest, _ in outputs],
        "releases": list(releases) if isinstance(reply, Done) else [],
        "bytes_out": sum(size for _, size in outputs),
        **({BEGUN: begun} if begun else {}),
    }


class Recording:
    """The writer of one work item's lines.

    Args:
        log: the audit log; None to write nothing.
        item: the work item.
        signed: its signer and nonces.
        entry: its entry in the administrator's journal; None for none.

    Attributes:
        computations: SHA-256 of each computation and sequence that was examined so far.
        labels: the label of each output; empty if the computations could not be followed.
        releases: the values that the reply releases, in words.
    """

    def __init__(self, log: AuditLog | None, item: WorkItem, signed: Signed, entry: WorkEntry | None = None) -> None:
        self._entry = entry
        self.computations: list[str] = []
        self.labels: Sequence[Label] = ()
        self.releases: Sequence[str] = ()
        self._log = log
        self._item = item
        self._signed = signed
        self._written = asyncio.Event()
        self._first_hash = ""
        self._first_write: asyncio.Future[str] | None = None
        self._last_write: asyncio.Future[str] | None = None

    def enter(self, state: WorkState, blobs: Mapping[Digest, Buffer] | None = None) -> None:
        """Note in the journal how far the work is, and the blobs that it uses once they have arrived."""
        if self._entry is not None:
            if blobs is not None:
                self._entry.uses(blobs)
            self._entry.enter(state)

    def will_release(self, releases: Sequence[str], masked: Sequence[bool], silos: int) -> None:
        """Note the values that the reply will release, which of its outputs are masked, and over how many silos."""
        self.releases = releases
        if self._entry is not None:
            self._entry.leaves(releases, sum(masked), silos)

    def begin(self) -> None:
        """Start to write the first line."""
        if self._log is None:
            return
        loop = asyncio.get_running_loop()

        def note(digest: str) -> None:
            self._first_hash = digest
            self._written.set()

        def on_written(digest: str) -> None:
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(note, digest)

        append = partial(self._log.append, first_line(self._item, self._signed), on_written)
        self._first_write = asyncio.ensure_future(in_thread(append, "audit"))
        self._first_write.add_done_callback(_retrieve_exception)

    async def written(self) -> None:
        """Wait until the first line is in the file; data may be read only then.

        Raises:
            AuditNotWritten: the line cannot be written.
        """
        if self._first_write is not None and not await self._in_file(self._first_write):
            await self._on_disk(self._first_write)

    async def end(self, reply: Done | Failed | Need) -> None:
        """Write the last line. Both lines are on the disk when this returns, so that the reply may leave.

        A reply that only asks for missing blobs has a last line only if a first line was begun.

        Raises:
            AuditNotWritten: a line cannot be written. The other line may be in the file: the log may say more than
                left, never less.
        """
        if self._log is None or (self._first_write is None and not isinstance(reply, Done | Failed)):
            return
        self._last_write = asyncio.ensure_future(self._write_last(reply))
        await self._on_disk(self._last_write)
        if self._first_write is not None:
            await self._on_disk(self._first_write)

    async def cancelled(self, why: str) -> None:
        """Write the last line of cancelled work, within ``LAST_LINE_SECONDS``; never raise."""
        if self._log is None:
            return
        if self._last_write is None:
            self._last_write = asyncio.ensure_future(self._write_last(why))
        await asyncio.wait([self._last_write], timeout=LAST_LINE_SECONDS)
        if not self._last_write.done():
            _log.error("audit_write_failed", reason=f"not within {LAST_LINE_SECONDS:g} s")
        elif isinstance(error := self._last_write.exception(), OSError):
            self._not_written(error)

    async def _write_last(self, reply: Done | Failed | Need | str) -> str:
        assert self._log is not None
        if self._first_write is not None:
            await self._in_file(self._first_write)  # the last line quotes the first one's hash
        line = last_line(self._item, reply, self.computations, self._signed, self._first_hash, self.releases)
        return await in_thread(partial(self._log.append, line), "audit")

    async def _in_file(self, first_write: asyncio.Future[str]) -> bool:
        """Wait until the first line is in the file, not for the sync to disk; return whether it is in the file."""
        waiting = asyncio.ensure_future(self._written.wait())
        either: list[asyncio.Future[Any]] = [waiting, first_write]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        return self._written.is_set()

    async def _on_disk(self, line: asyncio.Future[str]) -> None:
        try:
            await asyncio.shield(line)
        except OSError as error:
            raise self._not_written(error) from None

    def _not_written(self, error: OSError) -> AuditNotWritten:
        _log.error("audit_write_failed", reason=why_full(error) or str(error))
        return AuditNotWritten(error)


def _retrieve_exception(line: asyncio.Future[str]) -> None:
    """Retrieve the exception of a write, so that asyncio does not log it as never retrieved."""
    if not line.cancelled():
        line.exception()
