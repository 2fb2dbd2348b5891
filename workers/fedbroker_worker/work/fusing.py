"""Fewer requests to the C++ runtime for the same operations: small inputs in one struct, all outputs in one struct."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from fedbroker.wire.messages import Compute, Drop, Select, Struct, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence, Set

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Op

__all__ = ["ComputedElements", "FusedStruct", "Step", "fuse"]

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


@dataclass(frozen=True, slots=True)
class ComputedElements:
    """A step that computes the struct ``source``; the outputs are its elements at ``indices``."""

    source: int
    indices: tuple[int, ...]

    @property
    def uses(self) -> tuple[int, ...]:
        """Ids of the values that it uses."""
        return (self.source,)


Step: TypeAlias = "Op | FusedStruct | ComputedElements"


def fuse(
    ops: Sequence[Op], blobs: Mapping[Digest, Buffer], *, ends_session: bool, session_refs: Collection[int] = ()
) -> list[Step]:
    """Fuse values and outputs into structs: one request to the runtime instead of one or two for each of them.

    Small values are created in the one struct that uses them. Elements of a struct that are outputs and nothing else
    are computed with their struct: the runtime takes about as long for one of them as for all.

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
    return _fuse_inputs(_fuse_outputs(ops, fusible), blobs, fusible)


def _fuse_outputs(ops: Sequence[Op], fusible: set[int]) -> list[Step]:
    """Compute a struct as a whole if its elements are selected, and right after that computed and not used again."""
    steps: list[Step] = []
    fused: set[int] = set()
    position = 0
    while position < len(ops):
        selects: list[Select] = []
        while position < len(ops) and isinstance(select := ops[position], Select):
            selects.append(select)
            position += 1
        computes = ops[position : position + max(1, len(selects))]
        indices = {select.ref: select.index for select in selects}
        sources = {select.source for select in selects}
        refs = tuple([op.ref for op in computes if isinstance(op, Compute)])
        if len(sources) == 1 and fusible.issuperset(refs) and {*refs} == indices.keys():
            fused.update(refs)
            steps.append(ComputedElements(sources.pop(), tuple([indices[ref] for ref in refs])))
            position += len(refs)
        else:
            steps += [*selects, *computes[:1]]
            position += 1
    return _without(steps, fused) if fused else steps


def _fuse_inputs(steps: Sequence[Step], blobs: Mapping[Digest, Buffer], fusible: set[int]) -> list[Step]:
    """Create small values in the one struct that uses them."""
    values: dict[int, Digest] = {}  # by the steps so far
    remaining: list[Step] = []
    fused: set[int] = set()
    for step in steps:
        if isinstance(step, Struct) and step.uses and fusible.issuperset(step.uses) and values.keys() >= {*step.uses}:
            elements = tuple([(name, values[ref]) for name, ref in step.elements])
            if sum([len(blobs[digest]) for _, digest in elements]) <= MAX_FUSED:
                fused.update(step.uses)
                remaining.append(FusedStruct(step.ref, elements))
                continue
        if isinstance(step, Value):
            values[step.ref] = step.blob
        elif isinstance(step, Drop):
            fusible.difference_update(step.refs)
        remaining.append(step)
    return _without(remaining, fused) if fused else remaining


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
