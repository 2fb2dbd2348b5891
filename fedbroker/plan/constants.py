"""Constants that TFF's compiler leaves as expressions: literals, and small TensorFlow graphs over them.

The bound of a secure sum decides how many bytes a masked value takes, and the modulus of a modular sum is part of the
protocol: both are of more use as numbers, if the program states them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import tensorflow_federated as tff
from tensorflow.python.framework import op_def_registry
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.blocks import Block, element, element_types, elements_of, proto_of, tf, untyped
from fedbroker.runtime.protos import Proto

__all__ = ["number_of_literal", "with_literals"]

MAX_NODES: Final = 64
"""Number of nodes of the largest graph that planning evaluates."""


def number_of_literal(block: Block) -> int | None:
    """Return the integer that a block states, alone or as the only element of an array; else None."""
    if not isinstance(block, bb.Literal):
        return None
    value = np.asarray(untyped(block).value)
    return int(value.reshape(-1)[0]) if value.size == 1 and value.dtype.kind in "iu" else None


def with_literals(block: Block, locals_: Mapping[str, Block]) -> Block:
    """Return an expression of integers with literals in place of those parts that depend on nothing but literals.

    Args:
        block: the expression.
        locals_: the locals that it may refer to, by name.
    """
    if isinstance(block, bb.Reference):
        value = locals_.get(block.name)
        found = None if value is None else with_literals(value, locals_)
        return found if found is not None and _is_constant(found) else block
    if isinstance(block, bb.Struct):
        return bb.Struct([(name, with_literals(part, locals_)) for name, part in elements_of(block)])
    if isinstance(block, bb.Selection):
        source = _value_of(block.source, locals_)
        if isinstance(source, bb.Struct):
            return with_literals(element(source, block.as_index()), locals_)
        found = with_literals(source, locals_)
        return element(found, block.as_index()) if isinstance(found, bb.Struct) else block
    if isinstance(block, bb.Call) and isinstance(block.function, bb.CompiledComputation):
        argument = None if block.argument is None else with_literals(block.argument, locals_)
        if argument is None or _is_constant(argument):
            result = _evaluated(block.function, argument)
            return block if result is None else result
    return block


def _value_of(block: Block, locals_: Mapping[str, Block]) -> Block:
    """Return the value of the local that a block refers to, or the block."""
    while isinstance(block, bb.Reference) and block.name in locals_:
        block = locals_[block.name]
    return block


def _is_constant(block: Block) -> bool:
    if isinstance(block, bb.Struct):
        return all(_is_constant(part) for _, part in elements_of(block))
    return isinstance(block, bb.Literal)


def _literals(block: Block | None) -> Iterator[object]:
    """Yield the values of a constant, left to right."""
    if isinstance(block, bb.Struct):
        for _, part in elements_of(block):
            yield from _literals(part)
    elif block is not None:
        yield untyped(block).value


def _evaluated(compiled: bb.CompiledComputation, argument: Block | None) -> Block | None:
    """Return the result of a small, pure TensorFlow computation of integers; None if it is anything else."""
    assert isinstance(compiled.type_signature, tff.FunctionType)
    result = compiled.type_signature.result
    proto = proto_of(compiled).tensorflow
    graph = tf.compat.v1.GraphDef()
    if not _are_integers(result) or not proto.graph_def.Unpack(graph) or not _is_small_and_pure(graph):
        return None
    if proto.initialize_op:
        return None
    feeds = dict(zip(_tensors(proto.parameter), _literals(argument), strict=True)) if argument is not None else {}
    if proto.session_token_tensor_name:
        feeds[proto.session_token_tensor_name] = ""
    with tf.Graph().as_default() as imported:
        tf.import_graph_def(graph, name="")
        with tf.compat.v1.Session(graph=imported) as session:
            try:
                values = iter(session.run(list(_tensors(proto.result)), feeds))
            except tf.errors.OpError:  # the program fails in the same way, at its own time
                return None
    return _as_literals(result, values)


def _is_small_and_pure(graph: Proto) -> bool:
    if len(graph.node) > MAX_NODES or graph.library.function:
        return False
    definitions = [untyped(op_def_registry).get(node.op) for node in graph.node]
    return all(definition is not None and not definition.is_stateful for definition in definitions)


def _are_integers(type_: tff.Type) -> bool:
    if isinstance(type_, tff.StructType):
        return all(_are_integers(part) for _, part in element_types(type_))
    return isinstance(type_, tff.TensorType) and np.issubdtype(type_.dtype, np.integer)


def _tensors(binding: Proto) -> Iterator[str]:
    """Yield the names of the tensors of a computation's parameter or result, left to right."""
    if binding.HasField("struct"):
        for part in binding.struct.element:
            yield from _tensors(part)
    else:
        yield binding.tensor.tensor_name


def _as_literals(type_: tff.Type, values: Iterator[Any]) -> Block:
    if isinstance(type_, tff.StructType):
        return bb.Struct([(name, _as_literals(part, values)) for name, part in element_types(type_)])
    assert isinstance(type_, tff.TensorType)
    value = np.asarray(next(values))
    found = value[()] if value.ndim == 0 else value
    return bb.Literal(found, tff.TensorType(value.dtype.type, value.shape))
