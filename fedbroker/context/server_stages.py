"""Runs server stages in the coordinator's own C++ runtime, over the silos' partials."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from fedbroker.context.adding import ADDED_BYTES, ADDED_SILOS, SumMerger
from fedbroker.context.merging import LARGE_BATCH, MAX_BATCH_SILOS, PartialMerger
from fedbroker.context.values.codec import ELEMENTS, split, structure
from fedbroker.errors import ComputationFailed
from fedbroker.plan.model import ServerStage, Slot, Whole
from fedbroker.runtime import Executor, Ref
from fedbroker.runtime.values import struct
from fedbroker.session.merge_scheduler import MergeScheduler
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.codec import Buffer

__all__ = ["ServerSide"]

MAX_INLINE: Final = 64 << 10
"""Bytes up to which an input is sent to the runtime together with a stage's partials; a larger one is sent ahead."""


class ServerSide:
    """The server's values of one invocation.

    Args:
        executor: returns an executor of the coordinator's runtime with that many clients; called with 0 here.
        values: serialized values of the parameter's server-placed and unplaced leaves, by slot name.

    Attributes:
        values: these, and the outputs of the stages that have run.
    """

    def __init__(self, executor: Callable[[int], Awaitable[Executor]], values: Mapping[str, Buffer]) -> None:
        self._make_executor = executor
        self._lock = asyncio.Lock()
        self._executor: Executor | None = None
        self.values: dict[str, Buffer] = dict(values)
        self._refs: dict[str, asyncio.Task[Ref]] = {}
        self._functions: dict[int, asyncio.Task[Ref]] = {}
        self._merger: PartialMerger | SumMerger | None = None

    def begin(self, stage: ServerStage, replies: MergeScheduler, silos: int = 0) -> None:
        """Prepare to merge a stage's partials and then run it; :meth:`run` raises the errors.

        Args:
            stage: the next stage.
            replies: scheduler of the replies that bring the partials.
            silos: number of silos that are expected to send partials.
        """
        if stage.fold is not None:
            if stage.fold.adds:
                self._merger = SumMerger(stage, replies, self._get_executor)
                many, large = ADDED_SILOS, ADDED_BYTES
            else:
                self._merger = PartialMerger(stage.fold, replies, self._get_executor, self._load)
                many, large = MAX_BATCH_SILOS, LARGE_BATCH
            if silos >= many or silos * stage.fold.size >= large:
                silos = 0
        self._function(stage, silos)
        for slot in stage.inputs:
            # The totals of masked sums are added once all silos have replied.
            if len(self.values.get(slot.name, b"")) > MAX_INLINE:
                self._load(slot)

    async def run(self, stage: ServerStage) -> None:
        """Run a stage over the partials of its silos, and add its outputs to :attr:`values`.

        Raises:
            ComputationFailed: the computation failed; with the runtime's error and the silo whose partial did not
                merge.
            WireError: a silo sent a value that is no partial.
        """
        try:
            await self._run(stage)
        except ComputationFailed as error:
            failure = await self._merger.failure() if self._merger is not None else None
            if failure is None:
                raise ComputationFailed(error.status, error.detail, stage=stage.number, hint=error.hint) from None
            raise ComputationFailed(
                error.status,
                error.detail,
                stage=stage.number,
                silo=failure.silo,
                merged=failure.merged,
                hint="see that what its clients have is of the shape of the others', or leave that silo out",
            ) from None

    async def _run(self, stage: ServerStage) -> None:
        partials = self._merger.take_few() if self._merger is not None else []
        if stage.fold is None or not partials:
            result = await self._merged(stage)
        else:
            silos = len(partials) // len(stage.merges)
            function = await self._function(stage, silos)
            argument = await self._argument(stage.fold.whole(silos), partials)
            result = await (await self._get_executor()).call(function, argument)
        # Compute all outputs now: a failure must be the stage's, not that of the first later use of a value.
        values = split(await (await self._get_executor()).compute(result), ELEMENTS)
        self.values |= {slot.name: value for slot, value in zip(stage.outputs, values, strict=True)}
        await self._release()

    async def close(self) -> None:
        """Release the executor."""
        await self._release()
        loading = list(self._refs.values())
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        if self._executor is not None:
            await self._executor.close()

    async def _merged(self, stage: ServerStage) -> Ref:
        """Run a stage that has no partials, or whose partials are merged before."""
        function = await self._function(stage, 0)
        inputs = [(slot.name, await self._load(slot)) for slot in stage.inputs]
        if self._merger is not None:
            inputs.append(("", await self._merger.result()))
        executor = await self._get_executor()
        return await executor.call(function, await executor.struct(inputs) if inputs else None)

    async def _argument(self, whole: Whole, partials: Sequence[Buffer]) -> Ref:
        """Load the argument of a stage, in one request if no input is large."""
        executor = await self._get_executor()
        partial_struct = structure(partials)
        if all(len(self.values[slot.name]) <= MAX_INLINE for slot in whole.inputs):
            inputs = [(slot.name, [self.values[slot.name]]) for slot in whole.inputs]
            return await executor.value(*struct([*inputs, (None, partial_struct)]))
        loaded = [(slot.name, await self._load(slot)) for slot in whole.inputs]
        return await executor.struct([*loaded, ("", await executor.value(*partial_struct))])

    async def _release(self) -> None:
        """Release the functions and the merger of the current stage."""
        functions = list(self._functions.values())
        self._functions.clear()
        for task in functions:
            task.cancel()
        await asyncio.gather(*functions, return_exceptions=True)
        merger, self._merger = self._merger, None
        if merger is not None:
            await merger.close()

    async def _get_executor(self) -> Executor:
        async with self._lock:
            if self._executor is None:
                self._executor = await self._make_executor(0)
            return self._executor

    def _load(self, slot: Slot) -> asyncio.Task[Ref]:
        """Load a slot's value into the runtime, once."""
        if slot.name not in self._refs:
            self._refs[slot.name] = asyncio.create_task(self._loaded(self.values[slot.name]))
        return self._refs[slot.name]

    def _function(self, stage: ServerStage, silos: int) -> asyncio.Task[Ref]:
        """Load the stage's computation; with ``silos``, its variant that first merges the partials of so many."""
        if silos not in self._functions:
            self._functions[silos] = asyncio.create_task(self._loaded_function(stage, silos))
        return self._functions[silos]

    async def _loaded_function(self, stage: ServerStage, silos: int) -> Ref:
        computation = stage.computation
        if stage.fold is not None and silos > 0:
            computation = (await asyncio.to_thread(stage.fold.whole, silos)).computation
        return await (await self._get_executor()).function(digest_of(computation), computation)

    async def _loaded(self, value: Buffer) -> Ref:
        return await (await self._get_executor()).value(value)
