"""TensorFlow's ops are found at any depth of graphs that TensorFlow itself made."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.policy.values import parts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbroker.graphs.graphdef import known_ops
from fedbroker.graphs.reading import Unreadable, ops_of_computation, ops_of_graph
from fedbroker.plan import make_plan
from fedbroker.runtime.protos import computation_pb2
from fedbroker.runtime.values import framed
from tests.support.computations import sum_of


def proto(computation):
    return tff.framework.ConcreteComputation.get_proto(computation)


def ops_of(computation):
    return ops_of_computation(proto(computation).SerializeToString())


def refused(ops):
    return {op for op in ops if known_ops().get(op, "unknown")}


def graph_of(function, *specs):
    """Return a GraphDef as TensorFlow makes it: a function's own graph with its library."""
    return tf.function(function).get_concrete_function(*specs).graph.as_graph_def()


def computation_of(graph, *, parameter=None, result="out:0"):
    """Return a computation around a graph that only an attacker would send."""
    computation = computation_pb2.Computation()
    computation.tensorflow.graph_def.Pack(graph)
    computation.tensorflow.result.tensor.tensor_name = result
    if parameter is not None:
        computation.tensorflow.parameter.CopyFrom(parameter)
    return computation


# Each wraps a computation from a number to a number in an op that runs it.
def in_a_function(inner):
    return tf.function(inner)


def in_a_loop(inner):
    return lambda x: tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, inner(y)), [0, x])[1]


def in_a_branch(inner):
    return lambda x: tf.cond(x > 0, lambda: inner(x), lambda: x)


def in_a_switch(inner):
    return lambda x: tf.switch_case(tf.cast(x, tf.int32), [lambda: x, lambda: inner(x)])


def in_a_dataset_s_map(inner):
    return lambda x: tf.data.Dataset.from_tensors(x).map(inner).reduce(0.0, lambda a, b: a + b)


def in_a_dataset_s_flat_map(inner):
    def flat(y):
        return tf.data.Dataset.from_tensors(inner(y))

    return lambda x: tf.data.Dataset.from_tensors(x).flat_map(flat).reduce(0.0, lambda a, b: a + b)


def in_a_reduction(inner):
    return lambda x: tf.data.Dataset.from_tensors(x).reduce(0.0, lambda a, b: a + inner(b))


def in_a_map_over_elements(inner):
    return lambda x: tf.reduce_sum(tf.map_fn(inner, tf.stack([x, x])))


WRAPPERS = [
    in_a_function,
    in_a_loop,
    in_a_branch,
    in_a_switch,
    in_a_dataset_s_map,
    in_a_dataset_s_flat_map,
    in_a_reduction,
    in_a_map_over_elements,
]


def reads_a_file(x):
    return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)


def writes_a_file(x):
    with tf.control_dependencies([tf.io.write_file("/tmp/there", tf.strings.as_string(x))]):
        return tf.identity(x)


def calls_python(x):
    return tf.ensure_shape(tf.numpy_function(lambda y: y, [x], tf.float32), [])


def prints(x):
    with tf.control_dependencies([tf.print(x, output_stream="file:///tmp/there")]):
        return tf.identity(x)


def reads_lines(x):
    return x + tf.cast(tf.data.TextLineDataset("/etc/passwd").reduce(0, lambda n, _: n + 1), tf.float32)


BAD = {
    "ReadFile": reads_a_file,
    "WriteFile": writes_a_file,
    "PyFunc": calls_python,
    "PrintV2": prints,
    "TextLineDataset": reads_lines,
}


def harmless(x):
    return x * 2.0


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(WRAPPERS), max_size=3), st.sampled_from(sorted(BAD)))
def test_op_is_found_at_any_depth(wrappers, op):
    bad, good = BAD[op], harmless
    for wrapper in wrappers:
        bad, good = wrapper(bad), wrapper(good)
    spec = tf.TensorSpec([], tf.float32)
    assert op in ops_of_graph(graph_of(bad, spec).SerializeToString())
    assert refused(ops_of_graph(graph_of(good, spec).SerializeToString())) == set()


@pytest.mark.parametrize("op", sorted(BAD))
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_ops_of_tffs_own_computations_are_found(op, wrapper):
    computation = tff.tensorflow.computation(wrapper(BAD[op]), np.float32)
    assert refused(ops_of(computation)) - {"PyFuncStateless"} == {op}


def as_lambda(inner):
    outer = computation_pb2.Computation()
    getattr(outer, "lambda").parameter_name = "x"
    getattr(outer, "lambda").result.CopyFrom(inner)
    return outer


def as_local(inner):
    outer = computation_pb2.Computation()
    outer.block.local.add(name="x", value=inner)
    outer.block.result.reference.name = "x"
    return outer


def as_result(inner):
    outer = computation_pb2.Computation()
    outer.block.result.CopyFrom(inner)
    return outer


def as_function(inner):
    outer = computation_pb2.Computation()
    outer.call.function.CopyFrom(inner)
    return outer


def as_argument(inner):
    outer = computation_pb2.Computation()
    outer.call.function.intrinsic.uri = "federated_map"
    outer.call.argument.CopyFrom(inner)
    return outer


def as_element(inner):
    outer = computation_pb2.Computation()
    outer.struct.element.add(value=inner)
    return outer


def as_source(inner):
    outer = computation_pb2.Computation()
    outer.selection.source.CopyFrom(inner)
    return outer


NESTS = [as_lambda, as_local, as_result, as_function, as_argument, as_element, as_source]


@given(st.lists(st.sampled_from(NESTS), max_size=12))
def test_op_is_found_in_nested_computations(nests):
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="out", op="ReadFile")
    computation = computation_of(graph)
    for nest in nests:
        computation = nest(computation)
    assert ops_of_computation(computation.SerializeToString()) == {"ReadFile"}


def test_op_of_an_initializer_is_found():
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="out", op="Const")
    graph.node.add(name="first", op="WriteFile")
    computation = computation_of(graph)
    computation.tensorflow.initialize_op = "first"
    assert "WriteFile" in ops_of_computation(computation.SerializeToString())


def test_ops_of_an_uncalled_function_are_found():
    graph = tf.compat.v1.GraphDef()
    function = graph.library.function.add()
    function.signature.name = "idle"
    function.node_def.add(name="it", op="ReadFile")
    assert ops_of_graph(graph.SerializeToString()) == {"ReadFile"}


def test_function_of_the_graph_is_not_an_op():
    graph = tf.compat.v1.GraphDef()
    graph.library.function.add().signature.name = "mine"
    graph.node.add(name="call", op="mine")
    graph.node.add(name="other", op="theirs")
    assert ops_of_graph(graph.SerializeToString()) == {"theirs"}


def test_function_named_like_an_op_is_unreadable():
    graph = tf.compat.v1.GraphDef()
    graph.library.function.add().signature.name = "AddV2"
    with pytest.raises(Unreadable, match="name of an op"):
        ops_of_graph(graph.SerializeToString())


def test_functions_belong_to_their_own_graph():
    one, other = tf.compat.v1.GraphDef(), tf.compat.v1.GraphDef()
    one.library.function.add().signature.name = "mine"
    other.node.add(name="out", op="mine")
    both = as_element(computation_of(one))
    both.struct.element.add(value=computation_of(other))
    assert ops_of_computation(both.SerializeToString()) == {"mine"}


def test_training_has_no_refused_op():
    spec = collections.OrderedDict(x=tf.TensorSpec([None, 4], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))

    def model():
        keras = tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=(4,)), tf.keras.layers.Dense(1)])
        return tff.learning.models.from_keras_model(keras, loss=tf.keras.losses.MeanSquaredError(), input_spec=spec)

    plan = make_plan(
        tff.learning.algorithms.build_weighted_fed_avg(model, tff.learning.optimizers.build_sgdm(0.1)).next
    )
    (stage,) = plan.client_stages
    ((kind, part),) = parts(stage.computation)
    ops = ops_of_computation(part)
    assert kind == "computation"
    assert "MatMul" in ops
    assert refused(ops) == set()
    assert refused(ops_of(sum_of)) == set()


def cached(dataset, name=""):
    return dataset.cache(name).reduce(0, lambda total, x: total + x)


@pytest.mark.parametrize("wrapper", [in_a_function, lambda inner: inner])
@pytest.mark.parametrize(("name", "found"), [("", False), ("/tmp/there", True)])
def test_dataset_cache_in_a_file_is_distinguished_from_memory(name, found, wrapper):
    def total(x):
        return tf.data.Dataset.range(tf.cast(x, tf.int64)).cache(name).reduce(np.int64(0), lambda a, b: a + b)

    ops = ops_of_graph(graph_of(wrapper(total), tf.TensorSpec([], tf.float32)).SerializeToString())
    assert bool(refused(ops)) == found


def test_cache_with_a_fed_name_may_be_a_file():
    computation = proto(tff.tensorflow.computation(lambda x: cached(x), tff.SequenceType(np.int32)))
    assert refused(ops_of_computation(computation.SerializeToString())) == set()
    graph = tf.compat.v1.GraphDef()
    computation.tensorflow.graph_def.Unpack(graph)
    cache = next(node for node in graph.node if node.op.startswith("CacheDataset"))
    name = cache.input[1].partition(":")[0]
    binding = computation_pb2.TensorFlow.Binding()
    binding.struct.element.add().CopyFrom(computation.tensorflow.parameter)
    binding.struct.element.add().tensor.tensor_name = f"{name}:0"
    fed = computation_of(graph, parameter=binding)
    assert refused(ops_of_computation(fed.SerializeToString())) == {cache.op}


def sequence_of(**field):
    binding = computation_pb2.TensorFlow.Binding()
    for key, value in field.items():
        setattr(binding.sequence, key, value)
    return binding


def test_graph_in_computed_bytes_is_unreadable():
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="out", op="Const")
    computation = computation_of(graph)
    computation.tensorflow.result.CopyFrom(sequence_of(graph_def_tensor_name="out:0"))
    with pytest.raises(Unreadable, match="bytes of a graph"):
        ops_of_computation(computation.SerializeToString())


@pytest.mark.parametrize("name", ["p", "p:0"])
def test_bytes_fed_in_place_of_a_sequence_are_unreadable(name):
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="p", op="Placeholder")
    binding = computation_pb2.TensorFlow.Binding()
    binding.struct.element.add().CopyFrom(sequence_of(variant_tensor_name="p:0"))
    binding.struct.element.add().tensor.tensor_name = name
    with pytest.raises(Unreadable, match="one tensor"):
        ops_of_computation(computation_of(graph, parameter=binding).SerializeToString())


def xla():
    computation = computation_pb2.Computation()
    computation.xla.result.tensor.index = 0
    return computation


def other_graph():
    computation = computation_of(tf.compat.v1.GraphDef())
    computation.tensorflow.graph_def.type_url = "type.googleapis.com/tensorflow.SavedModel"
    return computation


def data():
    computation = computation_pb2.Computation()
    computation.data.uri = "file:///etc/passwd"
    return computation


@pytest.mark.parametrize(
    ("computation", "said"),
    [
        (xla(), "xla"),
        (data(), "data"),
        (other_graph(), "tensorflow.SavedModel"),
        (computation_pb2.Computation(), "unknown kind"),
        (as_element(xla()), "xla"),
    ],
)
def test_non_tensorflow_computation_is_unreadable(computation, said):
    with pytest.raises(Unreadable, match=said):
        ops_of_computation(computation.SerializeToString())


def test_too_deeply_nested_computation_is_unreadable():
    serialized = computation_of(tf.compat.v1.GraphDef()).SerializeToString()
    struct = computation_pb2.Computation.DESCRIPTOR.fields_by_name["struct"].number
    for _ in range(200):
        serialized = b"".join(framed(struct, framed(1, framed(2, [serialized]))))
    with pytest.raises(Unreadable, match="nested too deeply"):
        ops_of_computation(serialized)


def told(read, serialized):
    """Return the ops of some bytes, or None if they are unreadable; any other exception is a failure."""
    try:
        return read(serialized)
    except Unreadable:
        return None


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(noise):
    for read in (ops_of_computation, ops_of_graph):
        assert told(read, noise) is None or all(isinstance(op, str) for op in told(read, noise))


@given(st.data())
def test_truncated_computation_is_never_accepted(data):
    whole = proto(sum_of).SerializeToString()
    short = whole[: data.draw(st.integers(1, len(whole) - 1))]
    assert told(ops_of_computation, short) in (None, frozenset())
