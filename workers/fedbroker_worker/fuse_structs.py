"""Small values that only go into one struct are made together with it: one request to the runtime, not one for each.

Plain functions. Imports wire's messages.
"""

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
"""Bytes of all elements together, beyond which each is made by itself, side by side with others."""


@dataclass(frozen=True, slots=True)
class FusedStruct:
    """Create ``ref`` as a struct of serialized values; a name is empty where the element has none."""

    ref: int
    elements: tuple[tuple[str, Digest], ...]


Step: TypeAlias = "Op | FusedStruct"


def join(
    program: Sequence[Op], blobs: Mapping[Digest, Buffer], *, last: bool, held: Collection[int] = ()
) -> list[Step]:
    """A program that makes the same with fewer requests.

    Args:
        program: of a work item.
        blobs: the content of every digest that it names.
        last: nothing of it is needed after it has run.
        held: ids of what is there before it runs. Whoever uses or drops one of these means that, or replaces it.
    """
    uses = Counter(ref for op in program for ref in _used(op))
    created = Counter(op.ref for op in program if not isinstance(op, Compute | Drop))
    dropped = {ref for op in program if isinstance(op, Drop) for ref in op.refs}

    made: dict[int, Digest] = {}  # by now
    own = set(created).difference(held)  # and dropped by nothing until now

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
    """What an operation takes; dropping is no use."""
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
    """The step where those are not made."""
    if isinstance(step, Value) and step.ref in gone:
        return None
    if isinstance(step, Drop):
        refs = tuple(ref for ref in step.refs if ref not in gone)
        return Drop(refs) if refs or not step.refs else None
    return step
