"""Folds: the computations by which a server stage merges what silos sent, a few silos at a time.

Imports TFF and the plan's own parts.
"""

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
        so_far: of each merge a reference to what is merged already.
        partials: references to the silos' partials: each silo's in the order of the merges, one silo after another.
        merged: of each merge what there is afterwards.
    """

    locals: tuple[tuple[str, Block], ...]
    so_far: tuple[bb.Reference, ...]
    partials: tuple[bb.Reference, ...]
    merged: tuple[Block, ...]


def fold(merges: Sequence[tuple[str, Block]], silos: int) -> Folded:
    """Merge that many silos' partials into what there is.

    Args:
        merges: for each merge a name, and the function that merges two.
        silos: how many; 0 leaves what there is.
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
    """``<<merged, …>, zero>``: a zero that is there as soon as the rest is, since the runtime tells nothing else."""
    every = bb.Struct(merged)
    return bb.Struct([every, bb.Call(_ready(every.type_signature), every)])


def _ready(type_: tff.Type) -> Block:
    """A function of such a value to an int32 zero."""

    def zero(_: object) -> object:
        return tf.constant(0, tf.int32)

    computation = tff.tensorflow.computation(tf.autograph.experimental.do_not_convert(zero), type_)
    block: Block = computation.to_compiled_building_block()
    return block
