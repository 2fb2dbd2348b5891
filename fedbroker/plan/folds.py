"""Folds: the computations by which a server stage merges what silos sent, a few silos at a time.

Imports TFF and the plan's own parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.rewrite import Block

__all__ = ["Parts", "fold_parts", "ready"]

Parts: TypeAlias = tuple[tuple[bb.Reference, ...], tuple[bb.Reference, ...], Block]
"""References to what is merged so far and to the silos' partials, and the result of the fold over them."""


def fold_parts(merges: Sequence[tuple[str, Block]], silos: int) -> tuple[list[tuple[str, Block]], Parts]:
    """The locals and the parts of a fold over that many silos.

    Args:
        merges: for each merge a name, and the function that merges two.
        silos: how many partials of each are merged into what there is.

    Returns:
        Locals to be bound, and the fold: of each merge what there is, then each silo's partials in the order of the
        merges. Its result is ``<<merged, …>, zero>``.
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
    every = bb.Struct(merged)
    return locals_, (so_far, partials, bb.Struct([every, bb.Call(ready(every.type_signature), every)]))


def ready(type_: tff.Type) -> Block:
    """A function of such a value to an int32 zero that is there once the value is: the runtime tells nothing else."""

    def zero(_: object) -> object:
        return tf.constant(0, tf.int32)

    computation = tff.tensorflow.computation(tf.autograph.experimental.do_not_convert(zero), type_)
    block: Block = computation.to_compiled_building_block()
    return block
