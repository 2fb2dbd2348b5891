"""Server stages: run in the coordinator's own C++ runtime, over the silos' partials.

Values stay in the runtime by reference until something else needs their bytes. Imports TFF by way of the plan's model
and values, the runtime and the base.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from fedbroker.context.values import federate, members
from fedbroker.plan.model import Merge, ServerStage, Slot
from fedbroker.runtime import Executor, Ref
from fedbroker.wire.codec import Buffer

__all__ = ["ServerSide"]


class ServerSide:
    """The server's values of one invocation.

    Args:
        executor: gives an executor of the coordinator's runtime with that many clients.
        given: serialized values of the parameter's server-placed and unplaced leaves, by slot name.
    """

    def __init__(self, executor: Callable[[int], Awaitable[Executor]], given: Mapping[str, bytes]) -> None:
        self._make = executor
        self._current: Executor | None = None
        self._clients = 0
        self._bytes: dict[str, bytes] = dict(given)
        self._refs: dict[str, Ref] = {}

    async def run(self, stage: ServerStage, partials: Mapping[str, Sequence[Buffer]]) -> None:
        """Run a stage; its outputs can then be had by :meth:`value`.

        Args:
            stage: to run.
            partials: for the name of each partial's slot, what the silos sent, in membership order.

        Raises:
            ComputationFailed: with the runtime's own words.
        """
        await self._fit({len(partials[merge.partial.name]) - 1 for merge in stage.merges})
        function = await self._executor.value(stage.computation)
        elements = [(slot.name, await self._ref(slot)) for slot in stage.inputs]
        for merge in stage.merges:
            elements += await self._merge_inputs(merge, partials[merge.partial.name])
        argument = await self._executor.struct(elements) if elements else None
        result = await self._executor.call(function, argument)
        for index, slot in enumerate(stage.outputs):
            self._refs[slot.name] = await self._executor.select(result, index)
        # A stage that fails must fail here, as a stage, not wherever its value is first looked at.
        await asyncio.gather(*(self.value(slot) for slot in stage.outputs))

    async def close(self) -> None:
        """Let go of the runtime."""
        current, self._current = self._current, None
        if current is not None:
            await current.close()

    @property
    def _executor(self) -> Executor:
        assert self._current is not None, "a stage has run"
        return self._current

    async def _fit(self, clients: set[int]) -> None:
        """Have an executor with one client for each partial but the first, which is the zero of the merge.

        It is another one where fewer silos answered this stage than the last: every value of a stage that has run is
        here as bytes, too. A stage without merges does with any.
        """
        if self._current is None or not clients <= {self._clients}:
            await self.close()
            self._refs.clear()
            self._clients = max(clients, default=0)
            self._current = await self._make(self._clients)

    async def value(self, slot: Slot) -> bytes:
        """The serialized value of a slot that a server stage made, or that was given."""
        if slot.name not in self._bytes:
            self._bytes[slot.name] = await self._executor.compute(self._refs[slot.name])
        return self._bytes[slot.name]

    async def _ref(self, slot: Slot) -> Ref:
        if slot.name not in self._refs:
            self._refs[slot.name] = await self._executor.value(self._bytes[slot.name])
        return self._refs[slot.name]

    async def _merge_inputs(self, merge: Merge, partials: Sequence[Buffer]) -> list[tuple[str, Ref]]:
        first, rest = await asyncio.to_thread(_split, merge, partials)
        return [
            (merge.first.name, await self._executor.value(first)),
            (merge.rest.name, await self._executor.value(rest)),
        ]


def _split(merge: Merge, partials: Sequence[Buffer]) -> tuple[bytes, bytes]:
    """The first silo's partial, and the others' as one clients-placed value."""
    accumulators = [member for partial in partials for member in members(partial)]
    return accumulators[0], federate(accumulators[1:], merge.rest.type)
