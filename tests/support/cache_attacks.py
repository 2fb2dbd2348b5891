"""Graphs that try to smuggle a file's name past the filter into a cache, which may use memory but not files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

import tensorflow as tf

from fedbroker.runtime.protos import computation_pb2, executor_pb2

__all__ = [
    "ATTACKS",
    "ONLY_IN_DATASETS",
    "ONLY_IN_SESSIONS",
    "caching_graph",
    "computation_of",
    "counting_graph",
    "sequence_made",
    "sequence_of",
    "value_of",
]

_NUMBERS = itertools.count()
GraphDef = Any
Base = Callable[..., GraphDef]
STRING = tf.string.as_datatype_enum


def counting_graph(file: str = "") -> GraphDef:
    """Return a graph that counts the three elements of a cached dataset, with the count in ``out``."""
    return _graph_of(lambda: tf.data.Dataset.range(3).cache(file).reduce(tf.constant(0, tf.int64), lambda n, _: n + 1))


def caching_graph(file: str = "") -> GraphDef:
    """Return a graph that makes a cached dataset of three elements, in ``out``."""
    return _graph_of(lambda: tf.data.experimental.to_variant(tf.data.Dataset.range(3).cache(file)))


def named_outright(base: Base, file: str) -> GraphDef:
    """Put the name directly where the cache reads it."""
    return base(file)


def shadowed_by_an_argument(base: Base, file: str) -> GraphDef:
    """Name a constant like a list argument of its function, which TensorFlow takes instead."""
    graph = _in_a_function(base())
    function = graph.library.function[0]
    function.signature.attr.add(name="Ts", type="list(type)")
    function.signature.input_arg.add(name="filename", type_list_attr="Ts")
    _cache_in(function.node_def).input[1] = "filename:0"
    return _through_another(graph, [file, file])


def shadowed_by_an_argument_of_one_type(base: Base, file: str) -> GraphDef:
    """Do the same with the other kind of list, called as an op of the graph."""
    graph, function = _called(base(), "filename", [file, file])
    function.signature.attr.add(name="N", type="int")
    function.signature.input_arg[0].number_attr = "N"
    _cache_in(function.node_def).input[1] = "filename:0"
    call = graph.node[0]
    call.op = function.signature.name
    call.ClearField("attr")
    call.attr["N"].i = 2
    return graph


def named_by_an_argument(base: Base, file: str) -> GraphDef:
    """Pass the name as an argument of the function."""
    graph, function = _called(base(), "elsewhere", [file])
    _cache_in(function.node_def).input[1] = "elsewhere"
    return graph


def named_by_a_default(base: Base, file: str) -> GraphDef:
    """Call the function that an attribute names by default: an op that writes the file."""
    graph = base()
    function = graph.library.function.add()
    function.signature.name = f"attack{next(_NUMBERS)}"
    function.signature.is_stateful = True
    function.signature.attr.add(name="called", type="func").default_value.func.name = "WriteFile"
    for argument in ("file", "contents"):
        function.signature.input_arg.add(name=argument, type=STRING)
        graph.node.add().CopyFrom(_constant(argument, file))
    graph.node.add().CopyFrom(_constant("always", True))
    function.node_def.add().CopyFrom(_constant("always", True))
    inner = _branch(function.node_def.add(name="inner"), ["always:output:0", "file", "contents"])
    function.signature.control_output.append("written")
    function.control_ret["written"] = "inner"
    outer = _branch(graph.node.add(name="outer"), ["always", "file", "contents"])
    for key in ("then_branch", "else_branch"):
        inner.attr[key].placeholder = "called"
        outer.attr[key].func.name = function.signature.name
    next(node for node in graph.node if node.name == "out").input.append("^outer")
    return graph


def overwritten_where_it_lies(base: Base, file: str) -> GraphDef:
    """Overwrite an empty constant's memory by another op before the cache reads it."""
    return _overwritten(base(), file, "InplaceUpdate", ["tensor", "at", "written"], {})


def overwritten_by_an_internal_op(base: Base, file: str) -> GraphDef:
    """Do the same with an op internal to TensorFlow."""
    return _in_a_function(_overwritten(base(), file, "_ParallelConcatUpdate", ["tensor", "written"], {"loc": 0}))


ATTACKS: Mapping[str, Callable[[Base, str], GraphDef]] = {
    attack.__name__: attack
    for attack in (
        named_outright,
        shadowed_by_an_argument,
        shadowed_by_an_argument_of_one_type,
        named_by_an_argument,
        named_by_a_default,
        overwritten_where_it_lies,
        overwritten_by_an_internal_op,
    )
}
"""Attacks by name; each returns a graph of :func:`counted` or :func:`cached` that writes files with the given
prefix.
"""

ONLY_IN_SESSIONS: Final = frozenset({"shadowed_by_an_argument_of_one_type", "named_by_a_default"})
"""TensorFlow calls functions as ops, and ops as functions, only in sessions."""

ONLY_IN_DATASETS: Final = frozenset({"shadowed_by_an_argument"})
"""TensorFlow's Python does not import lists of types."""


def computation_of(graph: GraphDef) -> computation_pb2.Computation:
    """Return the TFF computation that runs a graph for its output ``out``, an int64."""
    computation = computation_pb2.Computation()
    computation.tensorflow.graph_def.Pack(graph)
    computation.tensorflow.result.tensor.tensor_name = "out:0"
    return computation


def value_of(graph: GraphDef) -> bytes:
    """Return that computation as a serialized value, as in a work item."""
    return bytes(executor_pb2.Value(computation=computation_of(graph)).SerializeToString())


def sequence_of(graph: GraphDef) -> bytes:
    """Return the serialized graph of a sequence, from a graph that makes a dataset in ``out``."""
    returned = graph.node.add(name="returned", op="_Retval", input=["out"])
    returned.attr["T"].type = tf.variant.as_datatype_enum
    returned.attr["index"].i = 0
    return bytes(graph.SerializeToString(deterministic=True))


def sequence_made(made: Callable[[], tf.data.Dataset]) -> bytes:
    """Return the serialized graph of the sequence that a function makes as a dataset."""
    return sequence_of(_graph_of(lambda: tf.data.experimental.to_variant(made())))


def _graph_of(made: Callable[[], tf.Tensor]) -> GraphDef:
    with tf.Graph().as_default() as graph:
        tf.identity(made(), name="out")
    return graph.as_graph_def()


def _through_another(graph: GraphDef, values: list[str]) -> GraphDef:
    """Let another function call the function with a list of values: only a function can pass one on."""
    inner, outer = graph.library.function[0], graph.library.function.add()
    result = inner.signature.output_arg[0]
    outer.signature.name = f"{inner.signature.name}_caller"
    outer.signature.output_arg.add(name="result", type=result.type)
    outer.signature.is_stateful = True
    call = outer.node_def.add(name="call", op=inner.signature.name)
    for at, value in enumerate(values):
        outer.node_def.add().CopyFrom(_constant(f"value{at}", value))
        call.input.append(f"value{at}:output:0")
        call.attr["Ts"].list.type.append(STRING)
    outer.ret["result"] = f"call:{result.name}:0"
    graph.node[0].attr["f"].func.name = outer.signature.name
    return graph


def _called(graph: GraphDef, argument: str, values: list[str]) -> tuple[GraphDef, Any]:
    """Return a graph that calls a function with these values, and the function, which does the graph's work."""
    graph = _in_a_function(graph)
    function = graph.library.function[0]
    function.signature.input_arg.add(name=argument, type=STRING)
    for at, value in enumerate(values):
        graph.node.add().CopyFrom(_constant(f"value{at}", value))
        graph.node[0].input.append(f"value{at}")
        graph.node[0].attr["Tin"].list.type.append(STRING)
    return graph, function


def _in_a_function(graph: GraphDef) -> GraphDef:
    """Return a graph whose only node, ``out``, calls the first function of its library, which does the graph's work."""
    name = f"attack{next(_NUMBERS)}"  # TensorFlow remembers functions' names for the whole process
    with tf.Graph().as_default():

        def attack() -> tf.Tensor:
            (out,) = tf.graph_util.import_graph_def(graph, return_elements=["out:0"], name="")
            return out

        function = tf.function(attack).get_concrete_function().function_def
        made = tf.compat.v1.GraphDef()
        made.library.function.add().CopyFrom(function)
        made.library.function[0].signature.name = name
        made.library.function.extend(graph.library.function)
    call = made.node.add(name="out", op="StatefulPartitionedCall")
    call.attr["Tin"].list.SetInParent()
    call.attr["Tout"].list.type.append(function.signature.output_arg[0].type)
    call.attr["f"].func.name = name
    return made


def _overwritten(graph: GraphDef, file: str, op: str, inputs: list[str], attributes: dict[str, int]) -> GraphDef:
    cache = _cache_in(graph.node)
    for name, value in (("shape", [1]), ("at", [0]), ("written", [file])):
        graph.node.add().CopyFrom(_constant(name, value))
    tensor = graph.node.add(name="tensor", op="Reshape", input=[cache.input[1], "shape"])
    tensor.attr["T"].type, tensor.attr["Tshape"].type = STRING, tf.int32.as_datatype_enum
    update = graph.node.add(name="update", op=op, input=inputs)
    update.attr["T"].type = STRING
    for key, number in attributes.items():
        update.attr[key].i = number
    cache.input.append("^update")
    return graph


def _branch(node: Any, inputs: list[str]) -> Any:
    """Make a node call one of two functions with strings; neither returns a value."""
    node.op = "If"
    node.input.extend(inputs)
    node.attr["Tcond"].type = tf.bool.as_datatype_enum
    node.attr["Tin"].list.type.extend([STRING] * (len(inputs) - 1))
    node.attr["Tout"].list.SetInParent()
    node.attr["_lower_using_switch_merge"].b = True  # turns a call of an op into that op
    return node


def _cache_in(nodes: Any) -> Any:
    return next(node for node in nodes if node.op.startswith("CacheDataset"))


def _constant(name: str, value: object) -> Any:
    tensor = tf.make_tensor_proto(value)
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tensor.dtype
    node.attr["value"].tensor.CopyFrom(tensor)
    return node
