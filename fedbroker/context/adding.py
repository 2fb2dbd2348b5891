"""Merges silos' partials by adding them in NumPy as they arrive, where the plan says that merging only adds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from fedbroker.context.values.sums import PartialSums, member_of
from fedbroker.plan.model import ServerStage
from fedbroker.runtime import Executor, Ref
from fedbroker.session.merge_scheduler import MergeScheduler, Reply
from fedbroker.wire.codec import Buffer

__all__ = ["ADDED_BYTES", "ADDED_SILOS", "SumMerger"]

ADDED_SILOS: Final = 16
ADDED_BYTES: Final = 256 << 10
"""Number of silos, and bytes of their partials, from which partials are added here. Fewer are added by the stage's own
computation: loading them takes less time than one more request to the runtime."""

IN_THREAD: Final = 1 << 20
"""Bytes from which a thread adds: adding them on the event loop would delay other replies."""


class SumMerger:
    """Adds the partials of one server stage, as its scheduler passes them on; see :class:`PartialMerger`.

    Each reply is released once it is added, so that memory holds the sum and the replies that are arriving.

    Args:
        stage: the stage.
        replies: the scheduler of the replies.
        executor: returns the executor that gets the sum.
    """

    def __init__(
        self, stage: ServerStage, replies: MergeScheduler, executor: Callable[[], Awaitable[Executor]]
    ) -> None:
        self._sums = PartialSums([merge.merged.type for merge in stage.merges])
        self._replies = replies
        self._executor = executor
        self._work = asyncio.create_task(replies.merge_all(self._merge_batch, ADDED_SILOS, ADDED_BYTES))

    def take_few(self) -> list[Buffer]:
        """Take the partials of all silos, silo by silo, if they are few and none of them is added yet.

        They are then not added here.

        Raises:
            WireError: a value is no partial.
        """
        few = self._replies.take_few(ADDED_SILOS, ADDED_BYTES)
        return [member_of(partial) for reply in few for partial in reply.partials]

    async def result(self) -> Ref:
        """Wait for the struct of all sums, in the executor; no more replies arrive.

        Raises:
            WireError: a silo sent something else than partials of the stage's types.
            RuntimeUnavailable: the runtime died.
        """
        self._replies.complete()
        await self._work
        return await (await self._executor()).value(*self._sums.value())

    async def failure(self) -> None:
        """Return None: no silo's numbers can make a sum fail."""

    async def close(self) -> None:
        """Stop adding."""
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def _merge_batch(self, batch: Sequence[Reply]) -> None:
        if sum(reply.size for reply in batch) > IN_THREAD:
            await asyncio.to_thread(self._add, batch)
        else:
            self._add(batch)

    def _add(self, batch: Sequence[Reply]) -> None:
        for reply in batch:
            self._sums.add(reply.partials)
