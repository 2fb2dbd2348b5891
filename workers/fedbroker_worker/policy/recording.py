"""What the audit log says of one work item: that it was begun, before data are read, and how it ended.

The first line is in the file before data are read, where a silo that is killed leaves it. The disk is waited for once,
for both lines together, and before anything leaves: a disk that takes its time would otherwise be waited for twice.

Work that neither reads data nor goes on with values of an earlier stage has the second line alone.
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
    from collections.abc import Sequence

    from fedbroker.transport import Signed
    from fedbroker.wire.messages import Need, WorkItem
    from fedbroker_worker.policy.audit import AuditLog

__all__ = ["GIVEN_UP", "AuditNotWritten", "Recording", "beginning", "ending"]

_log = get_logger(__name__)

GIVEN_UP: Final = "its coordinator gave the session up"
"""Why work is cancelled that is not to be done by another process either."""

GIVE_UP_SECONDS: Final = 5.0
"""For the line of work that is cancelled: a disk that hangs does not keep a silo from stopping."""


class AuditNotWritten(WorkRefused):
    """A line of the audit log cannot be written: nothing leaves."""

    def __init__(self, error: OSError) -> None:
        full = why_full(error)
        super().__init__("the silo's audit log cannot be written" + (full and f": {full}"), hint="see the silo's log")


def beginning(item: WorkItem, signed: Signed) -> dict[str, object]:
    """Return what is written before data are read: who asks for what.

    Args:
        item: the work item.
        signed: who signed it.
    """
    return {
        "time": now(),
        "silo": item.silo,
        "coordinator": item.reply_to,
        "signed_by": signed.by,
        NONCES: list(signed.nonces),
        "session": item.session,
        "stage": item.stage,
        "clients": item.clients,
        "sources": [
            {"name": op.name, "columns": [name for name, _ in op.columns]}
            for op in item.program
            if isinstance(op, Data)
        ],
        "outcome": BEGUN,
    }


def ending(
    item: WorkItem, reply: Done | Failed | Need | str, computations: Sequence[str], signed: Signed, begun: str = ""
) -> dict[str, object]:
    """Return what is written when work is over: who asked for what, and what leaves.

    Args:
        item: the work item.
        reply: what leaves, or why nothing does: text for work that was cancelled.
        computations: SHA-256 of each computation and sequence in it, as far as they were looked into.
        signed: who signed it.
        begun: the hash of the first line; empty where there is none.
    """
    outputs: Sequence[tuple[str, int]] = ()
    rule, why = "", ""
    match reply:
        case Done():
            outcome, outputs = "answered", reply.outputs
        case Failed():
            outcome, rule, why = "refused" if reply.rule else "failed", reply.rule, reply.cause
        case str():
            outcome, why = "cancelled" if reply == GIVEN_UP else INTERRUPTED, reply
        case _:
            outcome, why = "lacking", "blobs did not come"
    return {
        **beginning(item, signed),
        "computations": list(computations),
        "outcome": outcome,
        "rule": rule,
        "why": why,
        "outputs": [digest for digest, _ in outputs],
        "bytes_out": sum(size for _, size in outputs),
        **({BEGUN: begun} if begun else {}),
    }


class Recording:
    """Writes the lines of one work item.

    Args:
        log: the audit log; None for a silo that keeps none: then nothing is written.
        item: the work item.
        signed: who signed it.

    Attributes:
        computations: SHA-256 of each computation and sequence that was looked into so far.
    """

    def __init__(self, log: AuditLog | None, item: WorkItem, signed: Signed) -> None:
        self.computations: list[str] = []
        self._log = log
        self._item = item
        self._signed = signed
        self._written = asyncio.Event()
        self._first = ""
        self._beginning: asyncio.Future[str] | None = None
        self._ending: asyncio.Future[str] | None = None

    def begin(self) -> None:
        """Start to write the first line."""
        if self._log is None:
            return
        loop = asyncio.get_running_loop()

        def note(digest: str) -> None:
            self._first = digest
            self._written.set()

        def on_written(digest: str) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(note, digest)

        append = partial(self._log.append, beginning(self._item, self._signed), on_written)
        self._beginning = asyncio.ensure_future(in_thread(append, "audit"))
        self._beginning.add_done_callback(_looked_at)

    async def written(self) -> None:
        """Wait until the first line is in the file: from then on data may be read.

        Raises:
            AuditNotWritten: it cannot be written.
        """
        if self._beginning is not None and not await self._in_file(self._beginning):
            await self._on_disk(self._beginning)

    async def end(self, reply: Done | Failed | Need) -> None:
        """Write the last line: both are on the disk when this returns, and the reply may leave.

        A reply that only lacks blobs has a line where data may have been read.

        Raises:
            AuditNotWritten: one of them cannot be written. The other may be there: the log never says less than left.
        """
        if self._log is None or (self._beginning is None and not isinstance(reply, Done | Failed)):
            return
        self._ending = asyncio.ensure_future(self._end(reply))
        await self._on_disk(self._ending)
        if self._beginning is not None:
            await self._on_disk(self._beginning)

    async def cancelled(self, why: str) -> None:
        """Write the last line of work that was cancelled; bounded in time, and never raises."""
        if self._log is None:
            return
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(why))
        await asyncio.wait([self._ending], timeout=GIVE_UP_SECONDS)
        if not self._ending.done():
            _log.error("audit log not written", reason=f"not within {GIVE_UP_SECONDS:g} s")
        elif isinstance(error := self._ending.exception(), OSError):
            self._not_written(error)

    async def _end(self, reply: Done | Failed | Need | str) -> str:
        assert self._log is not None
        if self._beginning is not None:
            await self._in_file(self._beginning)  # the last line has its hash
        line = ending(self._item, reply, self.computations, self._signed, self._first)
        return await in_thread(partial(self._log.append, line), "audit")

    async def _in_file(self, beginning: asyncio.Future[str]) -> bool:
        """Wait for the first line, and no longer for the disk; whether it is in the file."""
        waiting = asyncio.ensure_future(self._written.wait())
        either: list[asyncio.Future[Any]] = [waiting, beginning]
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
        _log.error("audit log not written", reason=why_full(error) or str(error))
        return AuditNotWritten(error)


def _looked_at(line: asyncio.Future[str]) -> None:
    """Look at how the writing of a line ended, in case that nobody else does."""
    if not line.cancelled():
        line.exception()
