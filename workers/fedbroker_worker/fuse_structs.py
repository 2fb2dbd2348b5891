"""Fuse small values into the one struct that uses them: one request to the runtime instead of one for each value."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from fedbroker.wire.messages import Call, Compute, Data, Drop, Select, Struct, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Op

__all__ = ["FusedStruct", "Step", "join"]

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
