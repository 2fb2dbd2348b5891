"""Merges silos' partials in the coordinator's own C++ runtime as they arrive, so that few are held at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fedbroker.context.values.codec import structure
from fedbroker.context.values.sums import member_of
from fedbroker.errors import ComputationFailed, FedbrokerError
from fedbroker.plan.model import Fold, Slot
from fedbroker.runtime import Executor, Ref
from fedbroker.session.merge_scheduler import MergeScheduler, Reply
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.codec import Buffer

__all__ = ["MergeFailure", "PartialMerger"]

MAX_BATCH_SILOS: Final = 16
"""Largest number of silos whose partials are merged at once; each number needs a computation of its own."""
LARGE_BATCH: Final = 16 << 20
"""Bytes of partials from which a merge starts, and is awaited so that they can be released. A merge takes several
requests to the runtime: for fewer bytes these cost more than waiting for further partials."""

MAX_HISTORY: Final = 64 << 20
"""Bytes of partials that the runtime may hold after they are merged. A value in the runtime keeps all values that it
was computed from, disposed of or not, in three more copies. A value that is read out and loaded again keeps none."""

SEARCH_SECONDS: Final = 10.0
"""Time limit, in seconds, for finding the silo whose partial did not merge, once merging has failed."""

MAX_NAMES: Final = 3
"""Number of silos merged before it that an error names."""


@dataclass(frozen=True, slots=True)
class MergeFailure:
    """The failure of a merge.

    Attributes:
        silo: silo whose partial did not merge with the partials before it.
        merged: names of the silos merged before it, as text.
    """

    silo: str
    merged: str


@dataclass(frozen=True, slots=True)
class _Merge:
    """A merge that was requested and may still fail, because the runtime computes lazily."""

    so_far: Ref
    partials: Ref
    silos: Sequence[str]


class PartialMerger:
    """Merges the partials of one server stage, batch after batch, as its scheduler passes them on.

    Args:
        fold: computations that merge.
        replies: the scheduler of the replies.
        executor: returns the executor to merge in.
        value_of: returns a value of an earlier stage in that executor.
    """

    def __init__(
        self,
        fold: Fold,
        replies: MergeScheduler,
        executor: Callable[[], Awaitable[Executor]],
        value_of: Callable[[Slot], Awaitable[Ref]],
    ) -> None:
        self._fold = fold
        self._replies = replies
        self._executor = executor
        self._value_of = value_of
        self._functions: dict[int, Ref] = {}
        self._merged: Ref | None = None
        self._history: list[Ref] = []
        self._history_bytes = 0
        self._silos: list[str] = []  # in the order in which they are merged
        self._merges: list[_Merge] = []
        self._unmerged: Sequence[Reply] = ()
        self._partials_per_silo = 0
        self._work = asyncio.create_task(replies.merge_all(self._merge_batch, MAX_BATCH_SILOS, LARGE_BATCH))

    def take_few(self) -> list[Buffer]:
        """Take the partials of all silos, silo by silo, if they are few and none of them is merged yet.

        They are then not merged here. Returns none if merging has begun or failed.

        Raises:
            WireError: a value is no partial.
        """
        self._unmerged = self._replies.take_few(MAX_BATCH_SILOS, LARGE_BATCH)
        return [member_of(partial) for reply in self._unmerged for partial in reply.partials]

    async def result(self) -> Ref:
        """Wait for the struct of all merged partials; no more replies arrive.

        Raises:
            ComputationFailed: merging failed; with the runtime's error.
            RuntimeUnavailable: the runtime died.
        """
        self._replies.complete()
        await self._work
        assert self._merged is not None, "no silo sent partials"
        return self._merged

    async def failure(self) -> MergeFailure | None:
        """Look for the first silo whose partial does not merge with those before it. Bounded in time.

        Returns:
            The failure; None if each partial merges, or if the silo cannot be determined.
        """
        try:
            async with asyncio.timeout(SEARCH_SECONDS):
                if self._unmerged:
                    replies, self._unmerged = self._unmerged, ()
                    self._partials_per_silo = len(replies[0].partials)
                    self._silos = [reply.silo for reply in replies]
                    rest = await self._value(replies[1:])
                    self._merges = [_Merge(await self._value(replies[:1]), rest, self._silos[1:])]
                for merge in self._merges:
                    if (silo := await self._first_failure(merge)) is not None:
                        return MergeFailure(silo, _named(self._silos[: self._silos.index(silo)]))
        except (FedbrokerError, TimeoutError):
            pass  # the error of the failed merge says more
        return None

    async def _first_failure(self, merge: _Merge) -> str | None:
        """Repeat a merge silo by silo, waiting for each, and return the first silo that fails."""
        executor = await self._executor()
        inputs = [(slot.name, await self._value_of(slot)) for slot in self._fold.inputs]
        so_far = merge.so_far
        for at, silo in enumerate(merge.silos):
            count = self._partials_per_silo
            silo_partials = [
                ("", await executor.select(merge.partials, index)) for index in range(at * count, (at + 1) * count)
            ]
            argument = await executor.struct([*inputs, ("", so_far), ("", await executor.struct(silo_partials))])
            result = await executor.call(await self._function(1), argument)
            try:
                await executor.compute(await executor.select(result, 1))
            except ComputationFailed:
                return silo
            so_far = await executor.select(result, 0)
        return None

    async def close(self) -> None:
        """Stop merging."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def _merge_batch(self, batch: Sequence[Reply]) -> None:
        self._partials_per_silo = len(batch[0].partials)
        self._silos += [reply.silo for reply in batch]
        if self._merged is None:
            self._merged, batch = await self._value(batch[:1]), batch[1:]
        if batch:
            await self._merge(self._merged, batch)

    async def _merge(self, so_far: Ref, batch: Sequence[Reply]) -> None:
        executor = await self._executor()
        partials = await self._value(batch)
        inputs = [(slot.name, await self._value_of(slot)) for slot in self._fold.inputs]
        argument = await executor.struct([*inputs, ("", so_far), ("", partials)])
        self._merges.append(_Merge(so_far, partials, [reply.silo for reply in batch]))
        result = await executor.call(await self._function(len(batch)), argument)
        self._merged = await executor.select(result, 0)
        self._history += [so_far, partials, argument, result]
        size = sum(reply.size for reply in batch)
        self._history_bytes += size
        if self._history_bytes >= MAX_HISTORY:
            await self._forget_history(self._merged)
        elif size >= LARGE_BATCH:
            ready = await executor.select(result, 1)
            self._history.append(ready)
            await executor.compute(ready)

    async def _forget_history(self, merged: Ref) -> None:
        """Read the merged value out and load it again, so that the runtime releases all that it was computed from."""
        executor = await self._executor()
        content = await executor.compute(merged)
        await executor.dispose([*self._history, merged])
        self._history, self._history_bytes, self._merges = [], 0, []
        self._merged = await executor.value(content)

    async def _value(self, batch: Sequence[Reply]) -> Ref:
        """Load the struct of all partials of a batch into the runtime."""
        executor = await self._executor()
        return await executor.value(*structure(member_of(partial) for reply in batch for partial in reply.partials))

    async def _function(self, silos: int) -> Ref:
        if silos not in self._functions:
            computation = await asyncio.to_thread(self._fold.computation, silos)
            self._functions[silos] = await (await self._executor()).function(digest_of(computation), computation)
        return self._functions[silos]


def _named(silos: Sequence[str]) -> str:
    """Return the names of the last few silos as text."""
    more = f", and {len(silos) - MAX_NAMES} more" if len(silos) > MAX_NAMES else ""
    return ", ".join(map(repr, silos[-MAX_NAMES:])) + more
