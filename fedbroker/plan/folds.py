"""Folds: computations by which a server stage merges the silos' partials, a few silos at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.rewrite import Block

__all__ = ["Folded", "fold", "with_ready"]


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A fold over some silos' partials.

    Attributes:
        locals: to be bound, in this order.
        so_far: for each merge a reference to the value merged so far.
        partials: references to the silos' partials: each silo's in the order of the merges, one silo after another.
        merged: for each merge the value afterwards.
    """

    locals: tuple[tuple[str, Block], ...]
    so_far: tuple[bb.Reference, ...]
    partials: tuple[bb.Reference, ...]
    merged: tuple[Block, ...]


def fold(merges: Sequence[tuple[str, Block]], silos: int) -> Folded:
    """Build the fold of ``silos`` silos' partials into the values merged so far.

    Args:
        merges: for each merge a name, and the function that merges two.
        silos: the number of silos; 0 leaves the merged values as they are.
    """
    sides = [function.type_signature.parameter for _, function in merges]
    so_far = tuple(bb.Reference(f"{name}_so_far", side[0]) for (name, _), side in zip(merges, sides, strict=True))
    partials = tuple(
        bb.Reference(f"{name}_{silo}", side[1])
        for silo in range(silos)
        for (name, _), side in zip(merges, sides, strict=True)
    )
    locals_ = [(f"{name}_merge", function) for name, function in merges]
    merged: list[Block] = list(so_far)
    for silo in range(silos):
        for index, (name, function) in enumerate(merges):
            merge = bb.Reference(f"{name}_merge", function.type_signature)
            (left, _), (right, _) = tff.structure.to_elements(sides[index])
            next_one = partials[silo * len(merges) + index]
            step = f"{name}_step_{silo}"
            locals_.append((step, bb.Call(merge, bb.Struct([(left, merged[index]), (right, next_one)]))))
            merged[index] = bb.Reference(step, function.type_signature.result)
    return Folded(tuple(locals_), so_far, partials, tuple(merged))


def with_ready(merged: Sequence[Block]) -> Block:
    """Return ``<<merged, …>, zero>``. The zero is available once the rest is: the runtime offers no other signal."""
    every = bb.Struct(merged)
    return bb.Struct([every, bb.Call(_ready(every.type_signature), every)])


def _ready(type_: tff.Type) -> Block:
    """Return a function from a value of this type to an int32 zero."""

    def zero(_: object) -> object:
        return tf.constant(0, tf.int32)

    computation = tff.tensorflow.computation(tf.autograph.experimental.do_not_convert(zero), type_)
    block: Block = computation.to_compiled_building_block()
    return block
