"""Run the operations of a work item on the silo's C++ runtime: ids in, serialized outputs out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from fedbroker.runtime.cache_keys import with_content_keys
from fedbroker.wire.messages import Call, Compute, Data, Drop, Select, Struct, Value
from fedbroker_worker.errors import WorkRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping, Sequence, Set

    from fedbroker.runtime import Executor, Ref
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Op

__all__ = ["FusedStruct", "Step", "fuse_structs", "replay"]

MAX_FUSED: Final = 64 << 10
"""Total bytes of the elements up to which they are fused.

For small values, the requests take the time, and fusing saves most of them. Larger values are made one by one,
concurrently, because their transfer takes the time.
"""


@dataclass(frozen=True, slots=True)
class FusedStruct:
    """A step that creates ``ref`` as a struct of serialized values; the name of an unnamed element is empty."""

    ref: int
    elements: tuple[tuple[str, Digest], ...]
    uses: ClassVar[tuple[int, ...]] = ()


Step: TypeAlias = "Op | FusedStruct"


def fuse_structs(
    ops: Sequence[Op], blobs: Mapping[Digest, Buffer], *, ends_session: bool, session_refs: Collection[int] = ()
) -> list[Step]:
    """Fuse small values into the one struct that uses them: one request to the runtime instead of one for each value.

    Args:
        ops: the operations of a work item.
        blobs: the content of every digest that they name.
        ends_session: True if none of their values is needed afterwards.
        session_refs: ids of the values that the session holds before. They are never fused: an operation may mean the
            session's value.

    Returns:
        Steps with the same outputs and fewer requests.
    """
    uses, created = Counter[int](), Counter[int]()
    dropped: set[int] = set()
    for op in ops:
        if isinstance(op, Drop):
            dropped.update(op.refs)
            continue
        uses.update(op.uses)
        if not isinstance(op, Compute):
            created[op.ref] += 1
    fusible = {ref for ref in created if uses[ref] == created[ref] == 1 and (ends_session or ref in dropped)}
    fusible.difference_update(session_refs)

    values: dict[int, Digest] = {}  # by the operations so far
    steps: list[Step] = []
    fused: set[int] = set()
    for op in ops:
        if isinstance(op, Struct) and op.elements and fusible.issuperset(op.uses) and values.keys() >= {*op.uses}:
            elements = tuple([(name, values[ref]) for name, ref in op.elements])
            if sum([len(blobs[digest]) for _, digest in elements]) <= MAX_FUSED:
                fused.update(op.uses)
                steps.append(FusedStruct(op.ref, elements))
                continue
        if isinstance(op, Value):
            values[op.ref] = op.blob
        elif isinstance(op, Drop):
            fusible.difference_update(op.refs)
        steps.append(op)
    return _without(steps, fused) if fused else steps


def _without(steps: Sequence[Step], fused: Set[int]) -> list[Step]:
    """Return the steps without the values that were fused into structs."""
    remaining: list[Step] = []
    for step in steps:
        if isinstance(step, Value) and step.ref in fused:
            continue
        if isinstance(step, Drop) and not fused.isdisjoint(step.refs):
            refs = tuple([ref for ref in step.refs if ref not in fused])
            if refs:
                remaining.append(Drop(refs))
            continue
        remaining.append(step)
    return remaining


async def replay(
    steps: Sequence[Step],
    executor: Executor,
    refs: MutableMapping[int, Ref],
    blobs: Mapping[Digest, Buffer],
    load: Callable[[Data], Awaitable[Buffer]],
) -> list[Buffer]:
    """Run steps in order.

    Args:
        steps: the operations, some of them fused.
        executor: the session's executor.
        refs: the session's values by the coordinator's ids; changed in place. An id that is used again stands for the
            new value.
        blobs: the content of every digest that the steps name.
        load: returns the serialized value of a ``Data`` operation.

    Returns:
        The serialized value of each ``Compute``, in order.

    Raises:
        WorkRefused: a step uses a value that the session does not have.
        ComputationFailed: the runtime refused or failed an operation; carries the runtime's message.
        RuntimeUnavailable: the runtime died.
        SourceError: data could not be read.
    """
    called = {op.function for op in steps if isinstance(op, Call)}

    async def create(op: Value | Data | FusedStruct) -> Ref:
        match op:
            case Value(ref, blob) if ref in called:
                return await executor.function(blob, blobs[blob])
            case Value(_, blob):
                return await executor.value(*with_content_keys(blobs[blob]))
            case FusedStruct(_, elements):
                return await executor.struct_of([(name, blobs[digest]) for name, digest in elements])
            case Data():
                return await executor.value(await load(op))

    # Values that are made only of bytes depend on no other value, so they are made concurrently.
    early = [asyncio.create_task(create(op)) for op in steps if isinstance(op, Value | Data | FusedStruct)]
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
            case Value(ref) | Data(ref) | FusedStruct(ref):
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
            case Drop(dropped_refs):
                await executor.dispose([refs.pop(dropped) for dropped in dict.fromkeys(dropped_refs)])
                continue
        replaced = refs.get(ref)
        refs[ref] = created
        if replaced is not None:
            await executor.dispose([replaced])
    return outputs
