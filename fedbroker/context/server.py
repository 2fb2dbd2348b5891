"""Server stages: run in the coordinator's own C++ runtime, over the silos' partials.

Values stay in the runtime by reference until something else needs their bytes. Imports values and folding, the plan's
model, the runtime and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fedbroker.context.folding import Folding
from fedbroker.context.values import elements
from fedbroker.plan.model import ServerStage, Slot
from fedbroker.runtime import Executor, Ref
from fedbroker.wire.codec import Buffer

__all__ = ["ServerSide"]


class ServerSide:
    """The server's values of one invocation.

    Args:
        executor: gives an executor of the coordinator's runtime with that many clients; nothing here is at clients.
        given: serialized values of the parameter's server-placed and unplaced leaves, by slot name.
    """

    def __init__(self, executor: Callable[[int], Awaitable[Executor]], given: Mapping[str, Buffer]) -> None:
        self._make = executor
        self._lock = asyncio.Lock()
        self._executor: Executor | None = None
        self._bytes: dict[str, Buffer] = dict(given)
        self._refs: dict[str, Ref] = {}
        self._function: asyncio.Task[Ref] | None = None
        self._folding: Folding | None = None

    def begin(self, stage: ServerStage) -> None:
        """Be ready to merge what a stage merges, and then to run it; what goes wrong, :meth:`run` raises."""
        self._function = asyncio.create_task(self._load(stage.computation))
        if stage.fold is not None:
            self._folding = Folding(stage.fold, self._ready, self._ref)

    def give(self, partials: Sequence[Buffer], merged: Callable[[], None]) -> None:
        """One silo's partials for the stage that has begun; see :meth:`fedbroker.context.folding.Folding.give`."""
        assert self._folding is not None, "a stage that merges has begun"
        self._folding.give(partials, merged)

    async def run(self, stage: ServerStage) -> None:
        """Run a stage over whatever was given for it; its outputs can then be had by :meth:`value`.

        Raises:
            ComputationFailed: with the runtime's own words.
        """
        if self._function is None:
            self.begin(stage)
        assert self._function is not None
        function, self._function = await self._function, None
        executor = await self._ready()
        inputs = [(slot.name, await self._ref(slot)) for slot in stage.inputs]
        if self._folding is not None:
            inputs.append(("", await self._folding.result()))
            self._folding = None
        result = await executor.call(function, await executor.struct(inputs) if inputs else None)
        # All at once, and here: a stage that fails must fail as a stage, not wherever its value is first looked at.
        values = elements(await executor.compute(result))
        self._bytes |= {slot.name: value for slot, value in zip(stage.outputs, values, strict=True)}

    async def close(self) -> None:
        """Let go of the runtime."""
        if self._function is not None:
            self._function.cancel()
            await asyncio.gather(self._function, return_exceptions=True)
        if self._folding is not None:
            await self._folding.close()
        if self._executor is not None:
            await self._executor.close()

    def value(self, slot: Slot) -> Buffer:
        """The serialized value of a slot that a server stage made, or that was given."""
        return self._bytes[slot.name]

    async def _ready(self) -> Executor:
        async with self._lock:
            if self._executor is None:
                self._executor = await self._make(0)
            return self._executor

    async def _load(self, value: Buffer) -> Ref:
        return await (await self._ready()).value(value)

    async def _ref(self, slot: Slot) -> Ref:
        if slot.name not in self._refs:
            self._refs[slot.name] = await self._load(self._bytes[slot.name])
        return self._refs[slot.name]
