"""Answer a work item: join its blobs, the data and the session's values. Every failure is a reply, too."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from fedbroker import tracing
from fedbroker.deadline import Deadline
from fedbroker.errors import ComputationFailed, Missing, RuntimeUnavailable
from fedbroker.log import get_logger
from fedbroker.transport.signed_messages import UNSIGNED
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import Data, Digest, Done, Failed, Need, blobs_of
from fedbroker_worker.errors import WorkRefused
from fedbroker_worker.masking.sums import digest_after, without_roster
from fedbroker_worker.policy.recording import AuditNotWritten, Recording
from fedbroker_worker.policy.releases import releases
from fedbroker_worker.threads import in_thread
from fedbroker_worker.work.failures import failed_reply, located
from fedbroker_worker.work.fusing import fuse
from fedbroker_worker.work.replay import replay

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from fedbroker.transport import BlobStore, Signed
    from fedbroker.wire.messages import Seeds, WorkItem
    from fedbroker_worker.journal.entry import WorkEntry
    from fedbroker_worker.masking.sums import MaskedStage, SiloSums
    from fedbroker_worker.policy.audit import AuditLog
    from fedbroker_worker.policy.guard import Guard
    from fedbroker_worker.sources.catalog import Catalog
    from fedbroker_worker.sources.seeds import SiloSeeds
    from fedbroker_worker.work.sessions import Sessions

__all__ = ["WorkReply", "Worker"]

_log = get_logger(__name__)

PATIENCE: Final = 10.0
"""Seconds without progress of a blob's transfer after which an announced blob is requested again.

A healthy connection delivers the next chunk far sooner.
"""

ATTEMPTS: Final = 3
"""The most attempts of a work item when the runtime dies.

The item itself may be the cause, as when it needs too much memory: more attempts would repeat that.
"""

LARGE: Final = 4 << 20
"""Bytes of blobs from which they are checked in a thread, because the check would block the event loop."""


@dataclass(frozen=True, slots=True)
class WorkReply:
    """A reply to a work item, with its blobs.

    Attributes:
        message: the silo's message to the coordinator.
        outputs: the blobs that ``Done`` names.
    """

    message: Done | Failed | Need
    outputs: Mapping[Digest, Buffer] = field(default_factory=dict[Digest, Buffer])


class _Lacking(Exception):
    """Blobs are missing: they were not announced, or were announced and did not arrive."""

    def __init__(self, digests: Sequence[Digest]) -> None:
        super().__init__(digests)
        self.digests = tuple(digests)


class Worker:
    """The part of a silo that answers work items, several at a time.

    Args:
        silo: the silo's name.
        incarnation: the id of this process.
        blobs: the transport's store of blobs.
        catalog: the silo's data sources.
        seeds: the seeds of the orders of their rows.
        sessions: the values that are kept between stages.
        guard: the policy for work items and outputs.
        limits: bounds on blobs.
        patience: seconds without progress of a blob's transfer after which the blob counts as lost.
        audit: the log of work before data are read and of each reply before it leaves; None for no log.
        sums: the masked sums; None if the silo takes part in none.
        max_work: the most work items that read data and compute at a time; others wait for their turn.
    """

    def __init__(
        self,
        silo: str,
        incarnation: str,
        blobs: BlobStore,
        catalog: Catalog,
        seeds: SiloSeeds,
        sessions: Sessions,
        guard: Guard,
        *,
        limits: Limits = DEFAULT_LIMITS,
        patience: float = PATIENCE,
        audit: AuditLog | None = None,
        sums: SiloSums | None = None,
        max_work: int = 1024,
    ) -> None:
        self._silo = silo
        self._incarnation = incarnation
        self._blobs = blobs
        self._catalog = catalog
        self._seeds = seeds
        self._sessions = sessions
        self._guard = guard
        self._limits = limits
        self._patience = patience
        self._audit = audit
        self._sums = sums
        self._slots = asyncio.Semaphore(max_work)

    async def answer(
        self,
        item: WorkItem,
        signed: Signed = UNSIGNED,
        why_cancelled: Callable[[], str] = lambda: "",
        entry: WorkEntry | None = None,
    ) -> WorkReply:
        """Run a work item within its time, and log it. Raises only ``CancelledError``.

        Args:
            item: the work item.
            signed: its signer and nonces.
            why_cancelled: called when the work is cancelled; its result is for the audit log.
            entry: its entry in the administrator's journal; None for none.
        """
        record = Recording(self._audit, item, signed, entry)
        try:
            reply = await self._answer(item, signed, record)
            await record.end(reply.message)
            return reply
        except AuditNotWritten as error:
            return self._failed(item, error, signed.by)
        except asyncio.CancelledError:
            await record.cancelled(why_cancelled())
            raise

    async def _answer(self, item: WorkItem, signed: Signed, record: Recording) -> WorkReply:
        by, started = signed.by, time.monotonic()
        try:
            async with self._guard.time_for(item) as deadline:
                outputs, waited = await self._outputs(item, signed, deadline, record)
            named = [(digest_of(output), output) for output in outputs]
            if max(map(len, outputs), default=0) > self._limits.max_blob:
                raise WorkRefused(
                    f"an output takes more than the limit of {self._limits.max_blob} bytes",
                    hint="return less from the clients",
                    by_data=True,
                )
        except _Lacking as lacking:
            return WorkReply(Need(item.session_id, item.stage, self._silo, self._incarnation, lacking.digests))
        except Exception as error:
            return self._failed(item, error, by)
        sizes = tuple([(digest, len(output)) for digest, output in named])
        seconds = time.monotonic() - started
        done = Done(item.session_id, item.stage, self._silo, self._incarnation, sizes, seconds, waited)
        return WorkReply(done, dict(named))

    async def _outputs(
        self, item: WorkItem, signed: Signed, deadline: Deadline, record: Recording
    ) -> tuple[list[Buffer], float]:
        """Run the checks and the operations; return the outputs, and the seconds spent waiting for blobs."""
        by = signed.by
        is_known = self._sessions.check(item, by)
        self._guard.check_item(item, by)
        self._check_blobs(item)
        # Masked sums begin before it is this item's turn: the silos of a sum wait for each other's offers, and two sums
        # that reach two silos in different orders would wait for each other.
        async with self._masks(item, signed, deadline) as masks, self._slots:
            self._check_blobs(item)  # once more: a cached one may have gone by now
            return await self._computed(item, by, deadline, record, masks, is_known=is_known)

    def _check_blobs(self, item: WorkItem) -> None:
        """Check that every blob is here or announced, before any data are read.

        Raises:
            _Lacking: some are not.
        """
        lacking = [digest for digest in item.blobs if digest not in self._blobs and digest not in item.incoming]
        if lacking:
            raise _Lacking(lacking)

    async def _computed(
        self,
        item: WorkItem,
        by: str,
        deadline: Deadline,
        record: Recording,
        masks: MaskedStage | None,
        *,
        is_known: bool,
    ) -> tuple[list[Buffer], float]:
        """Read the data, wait for blobs, run the operations and mask; return as :meth:`_outputs` does."""
        digests, reads = blobs_of(item.ops), item.reads
        if is_known or reads:
            record.begin()
        # Data are read while blobs are still arriving.
        loads = {op: asyncio.create_task(self._load(op, item.clients, record)) for op in reads}
        try:
            started = time.monotonic()
            record.enter("waiting for blobs")
            with tracing.span("transfer", what="blobs", bytes=sum(item.incoming.values())):
                blobs = await self._collect(digests, deadline)
            waited = time.monotonic() - started
            record.enter("computing", blobs)
            # A large blob is parsed in a thread: it would block the event loop.
            large = sum(map(len, blobs.values())) > LARGE
            check = partial(self._guard.check_blobs, blobs.values(), record.computations)
            await in_thread(check, "check blobs") if large else check()
            if self._guard.reads_first:
                await asyncio.gather(*loads.values())
            attempts = 1 if is_known else ATTEMPTS
            return await self._replayed(item, by, blobs, loads, attempts, record, masks, large=large), waited
        finally:
            for load in loads.values():
                load.cancel()
            await asyncio.gather(*loads.values(), return_exceptions=True)

    @asynccontextmanager
    async def _masks(self, item: WorkItem, signed: Signed, deadline: Deadline) -> AsyncGenerator[MaskedStage | None]:
        """Begin the masked sums of a work item, if it has any: before its data are read, the other silos are checked.

        They end if the block raises, unless the work item will come again with the blobs that it lacks.
        """
        if not item.masking:
            yield None
            return
        if self._sums is None:
            raise without_roster()
        with self._blobs.pinned(item.blobs):
            request = await self._collect([item.masking], deadline)
            masks = await self._sums.begin(item, request[item.masking], signed)
        try:
            yield masks
        except _Lacking:
            raise
        except BaseException:
            self._sums.end(masks)
            raise
        self._sums.keep(masks, item)

    async def _load(self, op: Data, clients: int, record: Recording) -> bytes:
        await record.written()
        return await self._catalog.load(op, clients)

    async def _own_value(self, clients: int, loads: Mapping[Data, asyncio.Task[bytes]], op: Data | Seeds) -> bytes:
        """Return the value of an operation that makes one of the silo's own."""
        return await loads[op] if isinstance(op, Data) else self._seeds.value(op, clients)

    async def _replayed(
        self,
        item: WorkItem,
        by: str,
        blobs: Mapping[Digest, memoryview],
        loads: Mapping[Data, asyncio.Task[bytes]],
        attempts: int,
        record: Recording,
        masks: MaskedStage | None,
        *,
        large: bool,
    ) -> list[Buffer]:
        """Run the operations; if the runtime dies, run them again in a new runtime, ``attempts`` times in all."""
        for attempt in range(attempts):
            try:
                with tracing.span("compute", operations=len(item.ops), attempt=attempt + 1):
                    async with self._sessions.entered(item, by) as session:
                        work = await self._work(item, blobs, session.session.work, masks, large=large)
                        masked = () if masks is None else masks.masked
                        check = partial(self._guard.check_operations, item, blobs, session.labels, masked)
                        labels = await in_thread(check, "check operations") if large else check()
                        if not labels:
                            follow = partial(self._guard.labels_of, item, blobs, session.labels)
                            record.labels = await in_thread(follow, "follow operations") if large else follow()
                        steps = fuse(item.ops, blobs, ends_session=item.ends_session, session_refs=session.refs)
                        load = partial(self._own_value, item.clients, loads)
                        outputs = await replay(steps, session.executor, session.refs, blobs, load)
                        self._guard.check_values(outputs, labels)
                        silos = 0 if masks is None else masks.members
                        record.will_release(releases(outputs, labels or record.labels, masked, silos), masked, silos)
                        if masks is not None:
                            record.enter("masking")
                            outputs = await masks.mask(outputs)
                        self._guard.count_outputs(item, outputs, by)
                        session.session.work = work
                        return outputs
            except ComputationFailed as error:
                raise await in_thread(partial(located, error, item, blobs), "locate failure") from error
            except RuntimeUnavailable as error:
                if not error.retryable or attempt == attempts - 1:
                    raise
                _log.warning("work_retried", reason=error.what)
        raise AssertionError("an attempt returns or raises")

    async def _work(
        self,
        item: WorkItem,
        blobs: Mapping[Digest, memoryview],
        earlier: bytes,
        masks: MaskedStage | None,
        *,
        large: bool,
    ) -> bytes:
        """Return the digest of the session's work after an item; check that it is that of the item's masked sums."""
        if self._sums is None or (masks is None and item.ends_session):
            return earlier  # no masked sum will ask for it
        digest = partial(digest_after, earlier, item, blobs)
        work = await in_thread(digest, "digest work") if large else digest()
        if masks is not None:
            masks.check_work(work)
        return work

    async def _collect(self, digests: Sequence[Digest], deadline: Deadline) -> dict[Digest, memoryview]:
        """Return blobs by digest, as soon as all of them have arrived.

        Raises:
            _Lacking: some blobs were announced, but did not arrive.
        """
        with self._blobs.pinned(digests):
            results = await asyncio.gather(
                *[self._blobs.get(digest, deadline, self._patience) for digest in digests], return_exceptions=True
            )
        blobs: dict[Digest, memoryview] = {}
        for digest, result in zip(digests, results, strict=True):
            if isinstance(result, memoryview):
                blobs[digest] = result
            elif not isinstance(result, Missing):
                raise result
        if len(blobs) < len(digests):
            raise _Lacking([digest for digest in digests if digest not in blobs])
        return blobs

    def _failed(self, item: WorkItem, error: Exception, by: str) -> WorkReply:
        announced = self._catalog.announced
        return WorkReply(failed_reply(item, self._silo, self._incarnation, error, announced, self._guard, by))
