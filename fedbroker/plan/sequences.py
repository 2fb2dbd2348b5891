"""Sequence intrinsics as TensorFlow.

TFF 0.87's runtime has no ``sequence_sum``, and runs ``sequence_map`` and ``sequence_reduce`` only on sequences that
were passed in as values, never on sequences that TensorFlow computes. As TensorFlow, all of them run anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import compiler as mapreduce_compiler
from tensorflow_federated.python.core.environments.tensorflow_backend import tensorflow_tree_transformations
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import intrinsic_defs, transformation_utils, transformations
from tensorflow_federated.python.core.impl.utils import tensorflow_utils

from fedbroker.plan.blocks import (
    Block,
    Untyped,
    as_computation,
    as_tensorflow,
    element,
    parameter_of,
    proto_of,
    struct_of,
    tf,
    untyped,
)
from fedbroker.plan.initialization import make_variables_anonymous, with_initialization

__all__ = ["SEQUENCE_INTRINSICS", "sequences_as_tensorflow"]

MAP: Final = intrinsic_defs.SEQUENCE_MAP.uri
REDUCE: Final = intrinsic_defs.SEQUENCE_REDUCE.uri
SUM: Final = intrinsic_defs.SEQUENCE_SUM.uri
SEQUENCE_INTRINSICS: Final = frozenset({MAP, REDUCE, SUM})

_mapreduce: Final = untyped(mapreduce_compiler)
_tree: Final = untyped(tensorflow_tree_transformations)
_utils: Final = untyped(transformation_utils)


def sequences_as_tensorflow(comp: tff.framework.ConcreteComputation) -> tff.framework.ConcreteComputation:
    """Replace each sequence intrinsic of ``comp`` by TensorFlow, unless its function is no TensorFlow."""
    block, _ = _tree.replace_intrinsics_with_bodies(comp.to_building_block())
    block, _ = _utils.transform_postorder(block, _called_in_a_lambda)
    block = _mapreduce.compile_local_subcomputations_to_tensorflow(transformations.to_call_dominant(block))
    block, _ = _utils.transform_postorder(block, _replaced)
    return as_computation(block)


def _called_in_a_lambda(block: Block) -> tuple[Block, bool]:
    # TFF maps the bare intrinsic over a federated sequence; only calls can be replaced. It never does so with the other
    # two, whose arguments hold a function.
    if not (isinstance(block, bb.Intrinsic) and block.uri == SUM):
        return block, False
    sequence = bb.Reference("sequence", parameter_of(block))
    return bb.Lambda(sequence.name, sequence.type_signature, bb.Call(block, sequence)), True


def _replaced(block: Block) -> tuple[Block, bool]:
    if not (isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic)):
        return block, False
    body = _BODIES.get(block.function.uri)
    return (block, False) if body is None else body(block)


def _map(call: bb.Call) -> tuple[Block, bool]:
    function, sequence = _elements(call, 2)
    if not isinstance(function, bb.CompiledComputation):
        return call, False

    def mapped(dataset: Untyped) -> object:
        unpacked = isinstance(dataset.element_spec, tuple)  # TensorFlow passes the elements of a tuple one by one

        def inlined(*value: Untyped) -> object:
            result = _inlined(function, value if unpacked else value[0])
            to_container = untyped(tff.structure).to_odict_or_tuple
            return to_container(result) if isinstance(result, tff.structure.Struct) else result

        return dataset.map(inlined)

    return _called(mapped, sequence), True


def _reduce(call: bb.Call) -> tuple[Block, bool]:
    sequence, zero, function = _elements(call, 3)
    if not isinstance(function, bb.CompiledComputation):
        return call, False
    state_type = untyped(parameter_of(function))[0]

    def reduce(dataset: Untyped, start: Untyped) -> object:
        def inlined(state: Untyped, value: Untyped) -> object:
            arguments = tff.structure.Struct[Any].unnamed(struct_of(state, state_type), value)
            return _tuples(_inlined(function, arguments))

        state = _tuples(start)
        if not tf.nest.flatten(state):  # TensorFlow cannot carry a state without a tensor, and no step can change it
            return start
        return struct_of(dataset.reduce(state, inlined), call.type_signature)

    return _called(reduce, bb.Struct([sequence, zero])), True


def _sum(call: bb.Call) -> tuple[Block, bool]:
    def zero(spec: Untyped) -> object:
        return tf.zeros(spec.shape, spec.dtype)

    def add(sum_: object, value: object) -> object:
        return tf.nest.map_structure(tf.add, sum_, value)

    def total(dataset: Untyped) -> object:
        return dataset.reduce(tf.nest.map_structure(zero, dataset.element_spec), add)

    assert call.argument is not None
    return _called(total, call.argument), True


_BODIES: Final[Mapping[str, Callable[[bb.Call], tuple[Block, bool]]]] = {MAP: _map, REDUCE: _reduce, SUM: _sum}


def _elements(call: bb.Call, count: int) -> list[Block]:
    return [element(call.argument, at) for at in range(count)]


def _inlined(function: Block, argument: Untyped) -> Untyped:
    """Import the function's graph into the graph under construction: a dataset's graph cannot contain TFF's calls."""
    graph = tf.compat.v1.get_default_graph()
    _, result = untyped(tensorflow_utils).deserialize_and_call_tf_computation(
        with_initialization(proto_of(function)), argument, graph, "", tf.constant("")
    )
    make_variables_anonymous(graph)
    return result


def _tuples(value: Untyped) -> object:
    """Return TFF's structs as tuples: TensorFlow knows no structs, and would sort the keys of dicts."""
    if isinstance(value, tff.structure.Struct):
        return tuple(_tuples(part) for part in untyped(value))
    return value


def _called(function: Callable[..., object], argument: Block) -> bb.Call:
    return bb.Call(as_tensorflow(function, argument.type_signature), argument)
