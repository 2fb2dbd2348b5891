"""Run a work item's program on the silo's C++ runtime. It knows nothing of plans: ids in, serialized outputs out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fedbroker.runtime.cache_keys import with_own_keys
from fedbroker.wire.messages import Call, Compute, Data, Drop, Select, Struct, Value
from fedbroker_worker.errors import WorkRefused
from fedbroker_worker.fuse_structs import FusedStruct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence

    from fedbroker.runtime import Executor, Ref
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest
    from fedbroker_worker.fuse_structs import Step

__all__ = ["replay"]


async def replay(
    program: Sequence[Step],
    executor: Executor,
    refs: MutableMapping[int, Ref],
    blobs: Mapping[Digest, Buffer],
    load: Callable[[Data], Awaitable[Buffer]],
) -> list[Buffer]:
    """Run a program in order.

    Args:
        program: the operations.
        executor: the session's executor.
        refs: the session's values by the coordinator's ids; changed in place. An id that is used again stands for the
            new value.
        blobs: the content of every digest that the program names.
        load: returns the serialized value of a ``Data`` operation.

    Returns:
        The serialized value of each ``Compute``, in order.

    Raises:
        WorkRefused: the program names a value that the session does not have.
        ComputationFailed: the runtime refused or failed an operation; carries the runtime's message.
        RuntimeUnavailable: the runtime died.
        SourceError: data could not be read.
    """
    called = {op.function for op in program if isinstance(op, Call)}

    async def early(op: Value | Data | FusedStruct) -> Ref:
        match op:
            case Value(ref, blob) if ref in called:
                return await executor.function(blob, blobs[blob])
            case Value(_, blob):
                return await executor.value(*with_own_keys(blobs[blob]))
            case FusedStruct(_, elements):
                return await executor.struct_of([(name, blobs[digest]) for name, digest in elements])
            case Data():
                return await executor.value(await load(op))

    # Values that are made only of bytes depend on no other value, so they are made concurrently.
    made_early = [asyncio.create_task(early(op)) for op in program if isinstance(op, Value | Data | FusedStruct)]
    try:
        return await _in_order(program, executor, refs, iter(made_early))
    finally:
        for task in made_early:
            task.cancel()
        await asyncio.gather(*made_early, return_exceptions=True)


async def _in_order(
    program: Sequence[Step], executor: Executor, refs: MutableMapping[int, Ref], early: Iterator[Awaitable[Ref]]
) -> list[Buffer]:
    def held(ref: int) -> Ref:
        try:
            return refs[ref]
        except KeyError:
            raise WorkRefused(f"the program uses value {ref}, which this session does not have") from None

    outputs: list[Buffer] = []
    for op in program:
        match op:
            case Value(ref) | Data(ref) | FusedStruct(ref):
                made = await next(early)
            case Struct(ref, elements):
                made = await executor.struct([(name, held(element)) for name, element in elements])
            case Select(ref, source, index):
                made = await executor.select(held(source), index)
            case Call(ref, function, argument):
                made = await executor.call(held(function), None if argument is None else held(argument))
            case Compute(source):
                outputs.append(await executor.compute(held(source)))
                continue
            case Drop(gone):
                dropped = [held(ref) for ref in gone]
                for ref in gone:
                    refs.pop(ref, None)
                await executor.dispose(dropped)
                continue
        replaced = refs.get(ref)
        refs[ref] = made
        if replaced is not None:
            await executor.dispose([replaced])
    return outputs
