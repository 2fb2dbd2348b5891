"""Detect computations of which two evaluations may differ: random numbers, clocks, tables.

An unplaced value of this kind is evaluated once, at the coordinator, and sent.
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.rewrite import Block, walk

__all__ = ["is_stateful"]

_CARRIERS = frozenset(
    {
        # TensorFlow marks them stateful for the functions they may call; _ops looks through the function library.
        "StatefulPartitionedCall",
        "PartitionedCall",
        "If",
        "While",
        "Case",
        "Placeholder",
        # Variables exist for one run of the graph only.
        "VarHandleOp",
        "VariableV2",
        "ReadVariableOp",
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "VarIsInitializedOp",
        "DestroyResourceOp",
        "Assert",
        "NoOp",
    }
)


def is_stateful(block: Block) -> bool:
    """Return whether any TensorFlow graph in ``block`` contains an op whose result may differ from run to run."""
    return any(
        _op_is_stateful(op) for part in walk(block) if isinstance(part, bb.CompiledComputation) for op in _ops(part)
    )


def _ops(compiled: bb.CompiledComputation) -> Iterator[str]:
    graph = tf.compat.v1.GraphDef()
    if not compiled.proto.tensorflow.graph_def.Unpack(graph):
        return
    yield from (node.op for node in graph.node)
    for function in graph.library.function:
        yield from (node.op for node in function.node_def)


def _op_is_stateful(op: str) -> bool:
    definition = op_def_registry.get(op)
    return definition is not None and definition.is_stateful and op not in _CARRIERS
