"""Merges that only add: recognised by what their graphs compute, so that the coordinator may add in NumPy itself."""

from __future__ import annotations

import numpy as np
import tensorflow_federated as tff

from fedbroker.graphs.calculus import Evaluator
from fedbroker.graphs.expressions import Function, Input, NotUnderstood, Struct, Value
from fedbroker.graphs.reductions import NotRecognised, recognise_merge
from fedbroker.plan.blocks import Block, element_types, parameter_of, proto_of, result_of
from fedbroker.plan.secure_partials import has_static_shapes, tensors_of

__all__ = ["only_adds"]


def only_adds(merge: Block) -> bool:
    """Return whether a merge adds its two values, tensor by tensor, and does nothing else.

    The tensors are of one type on both sides, with all dimensions known, so that nothing is broadcast. NumPy's sum has
    the same bits, except that of float16, whose NaN has another sign there: such a merge is not recognised. Neither is
    one that uses any other value, or that cannot be read.

    Args:
        merge: a function of the value merged so far and the next silo's partial.
    """
    parameter, total = parameter_of(merge), result_of(merge)
    if not isinstance(parameter, tff.StructType):
        return False
    if any(type_ != total for _, type_ in element_types(parameter)):
        return False
    if not has_static_shapes(total) or not all(map(_is_numeric, tensors_of(total))):
        return False
    try:
        function = Evaluator(_no_intrinsic).evaluate(proto_of(merge))
        return isinstance(function, Function) and set(recognise_merge(_like(total), function)) <= {"sum"}
    except (NotUnderstood, NotRecognised):
        return False


def _no_intrinsic(uri: str) -> Function:
    raise NotUnderstood(f"it calls {uri}")


def _is_numeric(type_: tff.TensorType) -> bool:
    dtype = np.dtype(type_.dtype)
    return dtype.isbuiltin == 1 and dtype.kind in "iufc" and dtype != np.float16


def _like(type_: tff.Type) -> Value:
    """Return a value with the structs of a type."""
    if isinstance(type_, tff.StructType):
        return Struct.of([_like(part) for _, part in element_types(type_)])
    return Input("tensor")
