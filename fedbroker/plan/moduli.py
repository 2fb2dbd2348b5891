"""Moduli of ``federated_secure_modular_sum`` in the dtype of the values that they are for.

TFF accepts one integer as the modulus of all values, of any integer dtype. The computation that takes the place of the
intrinsic calls ``tf.math.mod``, which accepts only operands of the same dtype.
"""

from __future__ import annotations

from typing import Final

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import transformation_utils

from fedbroker.plan.blocks import Block, Untyped, as_tensorflow, element, element_types, untyped

__all__ = ["with_moduli_of_one_dtype"]

MODULAR_SUM: Final = "federated_secure_modular_sum"

_utils: Final = untyped(transformation_utils)


def with_moduli_of_one_dtype(block: Block) -> Block:
    """Convert each modulus in ``block`` to the dtypes of its values, where they differ."""
    converted, _ = _utils.transform_postorder(block, _converted)
    result: Block = converted
    return result


def _converted(block: Block) -> tuple[Block, bool]:
    if not (isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic)):
        return block, False
    if block.function.uri != MODULAR_SUM:
        return block, False
    values, modulus = element(block.argument, 0), element(block.argument, 1)
    assert isinstance(values.type_signature, tff.FederatedType)
    summand, given = values.type_signature.member, modulus.type_signature
    if _dtypes(given) == _dtypes(summand):
        return block, False

    def convert(found: Untyped) -> object:
        return _of_dtypes(found, given, summand)

    cast = bb.Call(as_tensorflow(convert, given), modulus)
    signature = tff.FunctionType([values.type_signature, cast.type_signature], block.type_signature)
    return bb.Call(bb.Intrinsic(MODULAR_SUM, signature), bb.Struct([values, cast])), True


def _dtypes(type_: tff.Type) -> object:
    """Return the dtypes of a type in its structure."""
    if isinstance(type_, tff.StructType):
        return [_dtypes(part) for _, part in element_types(type_)]
    assert isinstance(type_, tff.TensorType)
    return type_.dtype


def _of_dtypes(modulus: Untyped, given: tff.Type, wanted: tff.Type) -> object:
    """Return a modulus for each value of a structure; a single one is used for all."""
    if not isinstance(wanted, tff.StructType):
        assert isinstance(wanted, tff.TensorType)
        return tf.cast(modulus, wanted.dtype)
    parts = list(element_types(wanted))
    moduli: list[tuple[Untyped, tff.Type]] = [(modulus, given)] * len(parts)
    if isinstance(given, tff.StructType):
        each: list[Untyped] = list(untyped(tff.structure).from_container(modulus))
        moduli = [(part, part_type) for part, (_, part_type) in zip(each, element_types(given), strict=True)]
    converted = [
        (name, _of_dtypes(part, part_type, type_))
        for (name, type_), (part, part_type) in zip(parts, moduli, strict=True)
    ]
    return untyped(tff.structure).to_odict_or_tuple(tff.structure.Struct[object](converted))
