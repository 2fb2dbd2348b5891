"""Run the operations of a work item on the silo's C++ runtime: ids in, serialized outputs out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from fedbroker.runtime.cache_keys import with_own_keys
from fedbroker.wire.messages import Call, Compute, Data, Drop, Select, Struct, Value
from fedbroker_worker.errors import WorkRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping, Sequence

    from fedbroker.runtime import Executor, Ref
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Op

__all__ = ["FusedStruct", "Step", "join", "replay"]

SMALL: Final = 64 << 10
"""Total bytes of the elements up to which they are fused; larger ones are made one by one, concurrently."""


@dataclass(frozen=True, slots=True)
class FusedStruct:
    """A step that creates ``ref`` as a struct of serialized values; the name of an unnamed element is empty."""

    ref: int
    elements: tuple[tuple[str, Digest], ...]


Step: TypeAlias = "Op | FusedStruct"


def join(
    program: Sequence[Op], blobs: Mapping[Digest, Buffer], *, last: bool, held: Collection[int] = ()
) -> list[Step]:
    """Return steps with the same outputs and fewer requests to the runtime.

    Args:
        program: a work item's program.
        blobs: the content of every digest that it names.
        last: True if none of its values is needed after it has run.
        held: ids of the values that the session holds before it runs. These ids are never fused: an operation may mean
            the session's value.
    """
    uses = Counter(ref for op in program for ref in _used(op))
    created = Counter(op.ref for op in program if not isinstance(op, Compute | Drop))
    dropped = {ref for op in program if isinstance(op, Drop) for ref in op.refs}

    made: dict[int, Digest] = {}  # by the operations so far
    own = set(created).difference(held)  # and not dropped by the operations so far

    def goes_into_one(ref: int) -> bool:
        return ref in own and ref in made and uses[ref] == created[ref] == 1 and (last or ref in dropped)

    steps: list[Step] = []
    gone: set[int] = set()
    for op in program:
        if isinstance(op, Struct) and op.elements and all(goes_into_one(ref) for _, ref in op.elements):
            elements = tuple((name, made[ref]) for name, ref in op.elements)
            if sum(len(blobs[digest]) for _, digest in elements) <= SMALL:
                gone |= {ref for _, ref in op.elements}
                steps.append(FusedStruct(op.ref, elements))
                continue
        if isinstance(op, Value):
            made[op.ref] = op.blob
        elif isinstance(op, Drop):
            own.difference_update(op.refs)
        steps.append(op)
    return [step for one in steps if (step := _without(one, gone)) is not None]


def _used(op: Op) -> tuple[int, ...]:
    """Return the ids that an operation uses; a drop does not count as a use."""
    match op:
        case Struct(_, elements):
            return tuple(ref for _, ref in elements)
        case Select(_, source, _):
            return (source,)
        case Call(_, function, argument):
            return (function,) if argument is None else (function, argument)
        case Compute(source):
            return (source,)
        case Value() | Data() | Drop():
            return ()


def _without(step: Step, gone: set[int]) -> Step | None:
    """Return the step without the ids in ``gone``; None if no work is left."""
    if isinstance(step, Value) and step.ref in gone:
        return None
    if isinstance(step, Drop):
        refs = tuple(ref for ref in step.refs if ref not in gone)
        return Drop(refs) if refs or not step.refs else None
    return step


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
