"""References in graphs and functions mean what they mean to TensorFlow, or the graph is refused."""

from __future__ import annotations

import pytest
import tensorflow as tf

from fedbroker.graphs import Unreadable
from fedbroker.graphs.graphdef import parse
from fedbroker.graphs.references import Source, functions_in, node_of, resolve


def graph_of(*nodes):
    """Return a graph of nodes, each given by its name, op and inputs."""
    graph = tf.compat.v1.GraphDef()
    for name, op, *inputs in nodes:
        graph.node.add(name=name, op=op, input=inputs)
    return graph


def function_of(*nodes, arguments=(), results=(), name="f"):
    graph = tf.compat.v1.GraphDef()
    function = graph.library.function.add()
    function.signature.name = name
    for argument in arguments:
        function.signature.input_arg.add(name=argument, type=tf.string.as_datatype_enum)
    for result, reference in results:
        function.signature.output_arg.add(name=result, type=tf.string.as_datatype_enum)
        function.ret[result] = reference
    for node, op, *inputs in nodes:
        function.node_def.add(name=node, op=op, input=inputs)
    return graph


def resolved(graph):
    return resolve(graph.SerializeToString(deterministic=True))


def test_references_in_a_graph():
    body = resolved(graph_of(("a", "Const"), ("b", "Split", "a", "a:1", "^a"))).graph
    assert body.inputs[b"b"] == [Source(b"a"), Source(b"a", 1)]
    assert body.controls == {b"a": [], b"b": [b"a"]}


def test_references_in_a_function():
    graph = function_of(
        ("n", "Const"), ("m", "Concat", "x", "n:output:0", "x:0", "^n", "^x"), arguments=["x"], results=[("r", "m:r:2")]
    )
    body = resolved(graph).functions[b"f"]
    assert body.arguments == [b"x"]
    argument = Source(b"x", is_argument=True)
    assert body.inputs[b"m"] == [argument, Source(b"n", 0, b"output"), argument]
    assert body.controls[b"m"] == [b"n", b"x"]
    assert body.results == {b"r": Source(b"m", 2, b"r")}


@pytest.mark.parametrize(
    "reference",
    [
        "",
        ":0",
        "a:",
        "a:-1",
        "a:00",
        "a:01",
        "a:4294967296",
        "a:output:0",
        "b",
        "^",
        "^b",
        "^a:0",
        "a ",
        "a\n",
        "a:0:0",
    ],
)
def test_meaningless_or_ambiguous_reference_in_a_graph_is_refused(reference):
    with pytest.raises(Unreadable):
        resolved(graph_of(("a", "Const"), ("c", "Identity", reference)))


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "n",
        "n:0",
        "n:output",
        "n:output:",
        "n:output:00",
        "n:0:0",
        "x:",
        "x:1",
        "x:output:0",
        "y",
        "y:output:0",
        "^y",
        "^n:0",
    ],
)
def test_meaningless_or_ambiguous_reference_in_a_function_is_refused(reference):
    with pytest.raises(Unreadable):
        resolved(function_of(("n", "Const"), ("m", "Identity", reference), arguments=["x"]))


@pytest.mark.parametrize("lists", ["input_arg", "output_arg"])
@pytest.mark.parametrize("attribute", ["number_attr", "type_list_attr"])
def test_list_argument_of_a_function_is_refused(lists, attribute):
    graph = function_of(("m", "Identity", "x"), arguments=["x"], results=[("r", "x:0")])
    resolved(graph)
    setattr(getattr(graph.library.function[0].signature, lists)[0], attribute, "N")
    with pytest.raises(Unreadable, match="a list"):
        resolved(graph)


def test_function_attribute_with_a_default_is_refused():
    graph = function_of(("m", "Identity", "x"), arguments=["x"], results=[("r", "m:output:0")])
    attribute = graph.library.function[0].signature.attr.add(name="called", type="func")
    resolved(graph)
    attribute.default_value.func.name = "ReadFile"
    with pytest.raises(Unreadable, match="a default"):
        resolved(graph)


def test_data_input_after_a_control_input_is_refused():
    with pytest.raises(Unreadable):
        resolved(graph_of(("a", "Const"), ("c", "Identity", "^a", "a")))


@pytest.mark.parametrize(
    "path",
    [
        ["node"],
        ["library", "function"],
        ["library", "gradient"],
        ["library", "function", "node_def"],
        ["library", "function", "signature", "input_arg"],
        ["library", "function", "signature", "output_arg"],
    ],
)
def test_duplicate_name_is_refused(path):
    graph = function_of(("n", "Const"), arguments=["x"], results=[("r", "n:output:0")])
    graph.MergeFrom(graph_of(("a", "Const")))
    graph.library.gradient.add(function_name="f", gradient_func="f")
    whole = resolved(graph)
    assert (list(whole.graph.nodes), list(whole.functions)) == ([b"a"], [b"f"])
    at = graph
    for name in path[:-1]:
        at = getattr(at, name)
        at = at[0] if name == "function" else at
    found = getattr(at, path[-1])
    found.append(found[-1])
    with pytest.raises(Unreadable, match="the same name"):
        resolved(graph)


def test_node_named_like_an_argument_is_refused():
    with pytest.raises(Unreadable, match="the same name"):
        resolved(function_of(("x", "Const"), arguments=["x"]))


@pytest.mark.parametrize("result", ["x", "n"])
def test_result_named_like_a_node_or_an_argument_is_refused(result):
    with pytest.raises(Unreadable, match="has the name of"):
        resolved(function_of(("n", "Const"), arguments=["x"], results=[(result, "n:output:0")]))


@pytest.mark.parametrize("name", ["", "a:0", "^a", "a b", "a;b", "ä", "a\0"])
def test_name_that_looks_like_a_reference_is_refused(name):
    for graph in (graph_of((name, "Const")), function_of((name, "Const")), function_of(arguments=[name])):
        with pytest.raises(Unreadable, match="name"):
            resolved(graph)


def test_result_outside_the_signature_is_refused():
    graph = function_of(("n", "Const"), results=[("r", "n:output:0")])
    graph.library.function[0].ret["s"] = "n:output:0"
    with pytest.raises(Unreadable, match="signature"):
        resolved(graph)


def test_repeated_attribute_is_refused():
    graph = graph_of(("a", "Const"))
    graph.node[0].attr["f"].func.name = "first"
    node = graph.node[0].SerializeToString()
    entry = node[node.index(b"*") :]
    whole = b"\n" + bytes([len(node + entry)]) + node + entry
    with pytest.raises(Unreadable, match="occurs twice"):
        list(functions_in(parse(whole).node[0]))


def test_functions_in_attributes_of_attributes():
    node = tf.compat.v1.NodeDef()
    node.attr["f"].func.name = "one"
    node.attr["f"].func.attr["g"].func.name = "two"
    node.attr["branches"].list.func.add(name="three").attr["h"].list.func.add(name="four")
    graph = tf.compat.v1.GraphDef(node=[node])
    assert set(functions_in(parse(graph.SerializeToString(deterministic=True)).node[0])) == {
        b"one",
        b"two",
        b"three",
        b"four",
    }


@pytest.mark.parametrize("tensor", ["a", "a:0", "a:17"])
def test_node_of_a_fed_tensor(tensor):
    assert node_of(tensor) == b"a"


@pytest.mark.parametrize("tensor", ["", "^a", "a:b", "a:0:0", ":0"])
def test_invalid_tensor_name_is_refused(tensor):
    with pytest.raises(Unreadable):
        node_of(tensor)


GRAPH = graph_of(("a", "Const")).SerializeToString()


@pytest.mark.parametrize(
    "odd",
    [
        b"\x0a\x0a\x0a\x01a\x12\x05Const\x0a",  # truncated
        GRAPH + b"\xf8\x07\x01",  # an unknown field
        b"\x0a\x0d\x0a\x01b\x0a\x01a\x12\x05Const",  # a repeated name
        b"\x0a\x0a\x12\x05Const\x0a\x01a",  # the op first
        b"\x0a\x8a\x00\x0a\x01a\x12\x05Const",  # a length of two bytes
    ],
)
def test_bytes_that_no_serializer_writes_are_refused(odd):
    parse(GRAPH)
    with pytest.raises(Unreadable):
        parse(odd)


def test_our_protobuf_messages_equal_tensorflows():
    from tensorflow.core.framework import graph_pb2

    from fedbroker.graphs.graphdef import Graph

    seen = set()

    def compare(ours, theirs):
        if ours.full_name in seen:
            return
        seen.add(ours.full_name)
        assert {field.number for field in ours.fields} == {field.number for field in theirs.fields}, theirs.full_name
        for field in ours.fields:
            other = theirs.fields_by_number[field.number]
            assert field.name == other.name
            assert field.label == other.label
            if field.message_type is not None:
                compare(field.message_type, other.message_type)
            elif field.type == field.TYPE_BYTES:
                assert other.type in (other.TYPE_BYTES, other.TYPE_STRING, other.TYPE_MESSAGE)
            elif field.type == field.TYPE_INT32:
                assert other.type in (other.TYPE_INT32, other.TYPE_ENUM)
            else:
                assert field.type == other.type

    compare(Graph.DESCRIPTOR, graph_pb2.GraphDef.DESCRIPTOR)
    assert len(seen) > 15
