"""Of the runtime's message about a failure, only a node of the computation is extracted, never data."""

from __future__ import annotations

import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.graphs import known_ops, position_in
from fedbroker.runtime.protos import computation_pb2


def computation() -> bytes:
    """Return a graph with a node, an inlined one, and a function with a node of the same name."""
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="text", op="Placeholder")
    graph.node.add(name="cond/then/_0/Parse", op="StringToNumber")
    graph.node.add(name="total", op="Sum")
    function = graph.library.function.add()
    function.signature.name = "body_7"
    function.node_def.add(name="total", op="Prod")
    made = computation_pb2.Computation()
    made.tensorflow.graph_def.Pack(graph, deterministic=True)
    return made.SerializeToString(deterministic=True)


COMPUTATION = computation()


def found(words: str) -> tuple[str, int | None, int] | None:
    position = position_in(COMPUTATION, words)
    return None if position is None else (position.op, position.function, position.node)


def test_node_is_found_in_the_runtimes_message():
    assert found("no [[{{node total}}]] while evaluating") == ("Sum", None, 2)
    assert found("no [[{{function_node body_7}}{{node total}}]]") == ("Prod", 0, 0)
    assert found("no [[{{function_node cond_true_3}}{{node Parse}}]]") == ("StringToNumber", None, 1)
    assert found("no [[{{node caller/_5/total}}]]") == ("Sum", None, 2)


def test_node_name_among_the_data_is_ignored():
    assert found("could not convert {{node text}} [[{{node total}}]]") == ("Sum", None, 2)


def test_names_outside_the_graph_are_not_returned():
    for words in ("", "no", "{{node hugo}}", "{{node }}", "[[{{node total", "{{node to tal}}"):
        assert found(words) is None


@given(st.text(max_size=60), st.sampled_from(["total", "Parse", "hugo", "text", "a/b"]), st.text(max_size=60))
def test_only_nodes_of_the_graph_are_returned_for_any_message(before, name, after):
    position = position_in(COMPUTATION, f"{before}{{{{node {name}}}}}{after}")
    assert position is None or (position.op in known_ops() and 0 <= position.node < 3)
