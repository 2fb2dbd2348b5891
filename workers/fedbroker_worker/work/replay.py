"""Run the operations of a work item on the silo's C++ runtime: ids in, serialized outputs out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fedbroker.errors import ComputationFailed
from fedbroker.runtime.cache_keys import with_content_keys
from fedbroker.runtime.values import elements_of
from fedbroker.wire.messages import Call, Compute, Data, Drop, Seeds, Select, Struct, Value
from fedbroker_worker.errors import WorkRefused
from fedbroker_worker.work.fusing import ComputedElements, FusedStruct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence

    from fedbroker.runtime import Executor, Ref
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest
    from fedbroker_worker.work.fusing import Step

__all__ = ["replay"]


async def replay(
    steps: Sequence[Step],
    executor: Executor,
    refs: MutableMapping[int, Ref],
    blobs: Mapping[Digest, Buffer],
    load: Callable[[Data | Seeds], Awaitable[Buffer]],
) -> list[Buffer]:
    """Run steps in order.

    Args:
        steps: the operations, some of them fused.
        executor: the session's executor.
        refs: the session's values by the coordinator's ids; changed in place. An id that is used again stands for the
            new value.
        blobs: the content of every digest that the steps name.
        load: returns the serialized value of an operation that makes one of the silo's own.

    Returns:
        The serialized values of the ``Compute`` and ``ComputedElements`` steps, in order.

    Raises:
        WorkRefused: a step uses a value that the session does not have.
        ComputationFailed: the runtime refused or failed an operation; carries the runtime's message.
        RuntimeUnavailable: the runtime died.
        SourceError: data could not be read.
    """
    called = {op.function for op in steps if isinstance(op, Call)}

    async def create(op: Value | Data | Seeds | FusedStruct) -> Ref:
        match op:
            case Value(ref, blob) if ref in called:
                return await executor.function(blob, blobs[blob])
            case Value(_, blob):
                return await executor.value(*with_content_keys(blobs[blob]))
            case FusedStruct(_, elements):
                return await executor.struct_of([(name, blobs[digest]) for name, digest in elements])
            case Data() | Seeds():
                return await executor.value(await load(op))

    # Values that are made only of bytes depend on no other value, so they are made concurrently.
    early = [asyncio.create_task(create(op)) for op in steps if isinstance(op, Value | Data | Seeds | FusedStruct)]
    try:
        return await _in_order(steps, executor, refs, iter(early))
    finally:
        for task in early:
            task.cancel()
        await asyncio.gather(*early, return_exceptions=True)


async def _in_order(
    steps: Sequence[Step], executor: Executor, refs: MutableMapping[int, Ref], early: Iterator[Awaitable[Ref]]
) -> list[Buffer]:
    outputs: list[Buffer] = []
    for op in steps:
        for used in op.uses:
            if used not in refs:
                raise WorkRefused(f"the work item uses value {used}, which this session does not have")
        match op:
            case Value(ref) | Data(ref) | Seeds(ref) | FusedStruct(ref):
                created = await next(early)
            case Struct(ref, elements):
                created = await executor.struct([(name, refs[element]) for name, element in elements])
            case Select(ref, source, index):
                created = await executor.select(refs[source], index)
            case Call(ref, function, argument):
                created = await executor.call(refs[function], None if argument is None else refs[argument])
            case Compute(source):
                outputs.append(await executor.compute(refs[source]))
                continue
            case ComputedElements(source, indices):
                outputs += _elements(await executor.compute(refs[source]), indices)
                continue
            case Drop(dropped_refs):
                await executor.dispose([refs.pop(dropped) for dropped in dict.fromkeys(dropped_refs)])
                continue
        replaced = refs.get(ref)
        refs[ref] = created
        if replaced is not None:
            await executor.dispose([replaced])
    return outputs


def _elements(struct: Buffer, indices: Sequence[int]) -> list[memoryview]:
    """Return elements of a serialized struct.

    Raises:
        ComputationFailed: it is no struct, or has fewer elements; as the runtime itself would say.
    """
    try:
        elements = elements_of(struct)
        if min(indices) >= 0:
            return [elements[index] for index in indices]
    except (ValueError, IndexError):
        pass
    raise ComputationFailed("INVALID_ARGUMENT", "an element is selected that the value does not have")
