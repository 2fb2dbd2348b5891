"""Sequence intrinsics as TensorFlow.

TFF 0.87's runtime has no ``sequence_sum``, and runs ``sequence_map`` and ``sequence_reduce`` only on sequences that
were passed in as values, never on sequences that TensorFlow computes. As TensorFlow, all of them run anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import compiler as mapreduce
from tensorflow_federated.python.core.environments.tensorflow_backend import tensorflow_tree_transformations
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import intrinsic_defs, transformation_utils, transformations
from tensorflow_federated.python.core.impl.context_stack import context_stack_impl
from tensorflow_federated.python.core.impl.utils import tensorflow_utils

from fedbroker.plan.blocks import Block, walk

__all__ = ["has_sequence_intrinsics", "sequences_as_tensorflow"]

MAP: Final = intrinsic_defs.SEQUENCE_MAP.uri
REDUCE: Final = intrinsic_defs.SEQUENCE_REDUCE.uri
SUM: Final = intrinsic_defs.SEQUENCE_SUM.uri


def has_sequence_intrinsics(block: Block) -> bool:
    """Return whether ``block`` contains a sequence intrinsic."""
    return any(isinstance(part, bb.Intrinsic) and part.uri in _BODIES for part in walk(block))


def sequences_as_tensorflow(comp: tff.framework.ConcreteComputation) -> tff.framework.ConcreteComputation:
    """Replace each sequence intrinsic of ``comp`` by TensorFlow, unless its function is no TensorFlow."""
    block, _ = tensorflow_tree_transformations.replace_intrinsics_with_bodies(comp.to_building_block())
    block = mapreduce.compile_local_subcomputations_to_tensorflow(transformations.to_call_dominant(block))
    block, _ = transformation_utils.transform_postorder(block, _replaced)
    return tff.framework.ConcreteComputation(
        computation_proto=block.proto, context_stack=context_stack_impl.context_stack
    )


def _replaced(block: Block) -> tuple[Block, bool]:
    if not (isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic)):
        return block, False
    body = _BODIES.get(block.function.uri)
    return (block, False) if body is None else body(block)


def _map(call: bb.Call) -> tuple[Block, bool]:
    function, sequence = _elements(call, 2)
    if not _is_pure(function):
        return call, False
    return _called(lambda dataset: dataset.map(lambda *value: _inlined(function, value)), sequence), True


def _reduce(call: bb.Call) -> tuple[Block, bool]:
    sequence, zero, function = _elements(call, 3)
    if not _is_pure(function):
        return call, False

    def reduce(dataset: tf.data.Dataset, start: object) -> object:
        return dataset.reduce(start, lambda *state_and_value: _inlined(function, state_and_value))

    return _called(reduce, bb.Struct([sequence, zero])), True


def _sum(call: bb.Call) -> tuple[Block, bool]:
    def total(dataset: tf.data.Dataset) -> object:
        zero = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), dataset.element_spec)
        return dataset.reduce(zero, lambda sum_, value: tf.nest.map_structure(tf.add, sum_, value))

    return _called(total, call.argument), True


_BODIES: Final[Mapping[str, Callable[[bb.Call], tuple[Block, bool]]]] = {MAP: _map, REDUCE: _reduce, SUM: _sum}


def _elements(call: bb.Call, count: int) -> list[Block]:
    argument = call.argument
    return [
        argument[at] if isinstance(argument, bb.Struct) else bb.Selection(argument, index=at) for at in range(count)
    ]


def _is_pure(function: Block) -> bool:
    """Return whether a function is TensorFlow without an initialization op."""
    return isinstance(function, bb.CompiledComputation) and not function.proto.tensorflow.initialize_op


def _inlined(function: bb.CompiledComputation, arguments: tuple[Any, ...]) -> object:
    """Import the function's graph into the graph under construction: a dataset's graph cannot contain TFF's calls."""
    argument = arguments[0] if len(arguments) == 1 else arguments
    _, result = tensorflow_utils.deserialize_and_call_tf_computation(
        function.proto, argument, tf.compat.v1.get_default_graph(), "", tf.constant("")
    )
    return tff.structure.to_odict_or_tuple(result) if isinstance(result, tff.structure.Struct) else result


def _called(function: Callable[..., object], argument: Block) -> bb.Call:
    compiled = tff.tensorflow.computation(tf.autograph.experimental.do_not_convert(function), argument.type_signature)
    return bb.Call(compiled.to_compiled_building_block(), argument)
