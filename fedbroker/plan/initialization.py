"""TensorFlow computations that run their own initialization, so that a function of a dataset can contain them.

A session runs the initialization of variables and tables before it computes. A function of a dataset has no session:
each of its calls has to begin with the initialization.
"""

from __future__ import annotations

from typing import Final

from fedbroker.plan.blocks import Untyped, tf
from fedbroker.runtime.protos import Proto

__all__ = ["make_variables_anonymous", "with_initialization"]

# Under this name TensorFlow makes a variable for each execution. Calls that run at the same time share variables of
# other names: a dataset keeps the names of the session that made it when another session reads it.
_ANONYMOUS: Final = tf.compat.v1.AttrValue(s=b"cd2c89b7-88b7-44c8-ad83-06c2a9158347")

_WITHOUT_INPUT: Final = frozenset({"Const", "Placeholder"})


def with_initialization(proto: Proto) -> Proto:
    """Return a TensorFlow computation that needs no initialization and returns the same."""
    initialize = proto.tensorflow.initialize_op
    if not initialize:
        return proto
    graph = tf.compat.v1.GraphDef()
    proto.tensorflow.graph_def.Unpack(graph)
    initialization = _ancestors(graph, initialize)
    for node in graph.node:
        if node.name not in initialization and node.op not in _WITHOUT_INPUT:
            node.input.append(f"^{initialize}")
    made = type(proto)()
    made.CopyFrom(proto)
    made.tensorflow.graph_def.Pack(graph)
    made.tensorflow.ClearField("initialize_op")
    return made


def make_variables_anonymous(graph: Untyped) -> None:
    """Give each call of a dataset's function variables of its own.

    Args:
        graph: the function's graph, after all computations were imported: TFF appends to the names that it imports, so
            that all variables of one name would become one.
    """
    for operation in graph.get_operations():
        if operation.type == "VarHandleOp":
            operation._set_attr("shared_name", _ANONYMOUS)


def _ancestors(graph: Proto, name: str) -> set[str]:
    """Return the names of a node and of all nodes that run before it."""
    inputs = {node.name: [_node_of(source) for source in node.input] for node in graph.node}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting.extend(inputs[one])
    return found


def _node_of(source: str) -> str:
    return source.removeprefix("^").partition(":")[0]
