"""``federated_select``, and the secure one, which needs no treatment of its own: a silo selects by itself.

Rows whose names are not in the order of the alphabet need one.

TFF 0.87's runtime makes a sequence of the rows, with each row's parts in the order of its type. TensorFlow sorts the
parts of a dict by name, and so would take one part for another. Rows without names have one order for both.
"""

from __future__ import annotations

from typing import Final

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import (
    building_block_factory,
    intrinsic_defs,
    transformation_utils,
    transformations,
)
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.blocks import (
    Block,
    Untyped,
    as_computation,
    as_tensorflow,
    element,
    element_types,
    parameter_of,
    result_of,
    struct_of,
    untyped,
)

__all__ = ["SELECTS", "with_rows_in_order"]

SELECTS: Final = frozenset({intrinsic_defs.FEDERATED_SELECT.uri, intrinsic_defs.FEDERATED_SECURE_SELECT.uri})

_factory: Final = untyped(building_block_factory)
_utils: Final = untyped(transformation_utils)


def with_rows_in_order(comp: tff.framework.ConcreteComputation) -> tff.framework.ConcreteComputation:
    """Let each ``federated_select`` of ``comp`` return rows whose order of parts the runtime and TensorFlow share.

    A secure one becomes an ordinary one: the runtime has no other.
    """
    block = transformations.to_call_dominant(comp.to_building_block())
    block, _ = _utils.transform_postorder(block, _ordered)
    return as_computation(block)


def _ordered(block: Block) -> tuple[Block, bool]:
    if not (isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic) and block.function.uri in SELECTS):
        return block, False
    keys, largest, server, select = (element(block.argument, at) for at in range(4))
    row = result_of(select)
    if _is_sorted(row):
        return _factory.create_federated_select(keys, largest, server, select, False), True
    selected = _factory.create_federated_select(keys, largest, server, _without_names(select), False)
    nameless = _nameless_type(row)

    def named(*parts: Untyped) -> object:  # TensorFlow passes the parts of a tuple one by one
        return untyped(tff.structure).to_odict_or_tuple(struct_of(parts, row))

    def restored(dataset: Untyped) -> object:
        return dataset.map(named)

    return _factory.create_federated_map(as_tensorflow(restored, tff.SequenceType(nameless)), selected), True


def _is_sorted(type_: tff.Type) -> bool:
    if not isinstance(type_, tff.StructType):
        return True
    names = [name for name, _ in element_types(type_) if name is not None]
    return names == sorted(names) and all(_is_sorted(part) for _, part in element_types(type_))


def _without_names(select: Block) -> Block:
    """Return the function with its result's names removed."""
    argument = bb.Reference("selecting", parameter_of(select))
    row = bb.Reference("row", result_of(select))
    body = bb.Block([(row.name, bb.Call(select, argument))], _nameless(row))
    return bb.Lambda(argument.name, argument.type_signature, body)


def _nameless(value: Block) -> Block:
    type_ = value.type_signature
    if not isinstance(type_, tff.StructType):
        return value
    return bb.Struct([_nameless(bb.Selection(value, index=at)) for at in range(len(type_))])


def _nameless_type(type_: tff.Type) -> tff.Type:
    if not isinstance(type_, tff.StructType):
        return type_
    return tff.StructType([_nameless_type(part) for _, part in element_types(type_)])
