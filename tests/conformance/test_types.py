"""Every type of value, and every Python container."""

from __future__ import annotations

import collections
from typing import NamedTuple

import attrs
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.errors import UsageError
from tests.support import computations as c
from tests.support.conformance import feature

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F, N = np.float32, np.int32


def through(member):
    """Return a computation that passes values of a type, at clients and server, through TensorFlow."""
    member = tff.types.to_type(member)
    identity = tff.tensorflow.computation(lambda x: tf.nest.map_structure(tf.identity, x), member)

    @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS), tff.FederatedType(member, tff.SERVER))
    def passed(at_clients, at_server):
        spread = tff.federated_broadcast(tff.federated_map(identity, at_server))
        return tff.federated_map(identity, at_clients), at_clients, at_server, tff.federated_map(identity, spread)

    return passed


NUMBERS = {
    "bool": (np.bool_, True, False),
    "int8": (np.int8, np.int8(-3), np.int8(4)),
    "int16": (np.int16, np.int16(-3), np.int16(4)),
    "int32": (np.int32, -3, 4),
    "int64": (np.int64, np.int64(-(2**40)), np.int64(2**40)),
    "uint8": (np.uint8, np.uint8(3), np.uint8(255)),
    "uint16": (np.uint16, np.uint16(3), np.uint16(2**16 - 1)),
    "uint32": (np.uint32, np.uint32(3), np.uint32(2**32 - 1)),
    "uint64": (np.uint64, np.uint64(3), np.uint64(2**64 - 1)),
    "float16": (np.float16, np.float16(0.5), np.float16(-2)),
    "float32": (np.float32, F(0.1), F(-2)),
    "float64": (np.float64, np.float64(0.1), np.float64(-2)),
    "complex64": (np.complex64, np.complex64(1 + 2j), np.complex64(-1j)),
    "complex128": (np.complex128, np.complex128(1 + 2j), np.complex128(-1j)),
    "bfloat16": (ml_dtypes.bfloat16, ml_dtypes.bfloat16(0.5), ml_dtypes.bfloat16(-2)),
}


@feature("types", "bool, integers, floats, complex and bfloat16; scalars and arrays")
def test_numbers(same):
    scalars = collections.OrderedDict((name, dtype) for name, (dtype, _, _) in NUMBERS.items())
    arrays = collections.OrderedDict((name, tff.TensorType(dtype, [2, 1])) for name, (dtype, _, _) in NUMBERS.items())
    one = collections.OrderedDict((name, value) for name, (_, value, _) in NUMBERS.items())
    other = collections.OrderedDict((name, value) for name, (_, _, value) in NUMBERS.items())
    same(through(scalars), [one, other, one], other)
    stacked = collections.OrderedDict((name, np.array([[a], [b]], dtype)) for name, (dtype, a, b) in NUMBERS.items())
    same(through(arrays), [stacked, stacked], stacked)


@feature("types", "strings and bytes")
def test_strings(same):
    same(through(np.str_), ["a", "", b"gr\xc3\xbc\xc3\x9f"], "server")
    words = tff.TensorType(np.str_, [None])
    same(through(words), [np.array([b"a", b"bc\x00\xff"], object), np.array([], object)], np.array([b"x"], object))


@feature("types", "arrays without elements, and shapes that are not known")
def test_empty_and_open_shapes(same):
    same(through(tff.TensorType(F, [0])), [np.zeros([0], F)] * 2, np.zeros([0], F))
    same(through(tff.TensorType(F, [2, 0])), [np.zeros([2, 0], F)] * 2, np.zeros([2, 0], F))
    open_ = tff.TensorType(N, [None, 2])
    same(through(open_), [np.zeros([0, 2], N), np.ones([3, 2], N)], np.ones([1, 2], N))


class Point(NamedTuple):
    x: object
    y: object


@attrs.define(eq=False)
class Box:
    low: object
    high: object


@feature("types", "tuples, lists, OrderedDicts, NamedTuples, attrs classes and nests of them")
def test_containers(same):
    nest = collections.OrderedDict(
        point=Point(F, N), box=Box(F, Point(N, N)), pair=(F, [N, N]), empty=(), none=collections.OrderedDict()
    )
    value = collections.OrderedDict(
        point=Point(1.0, 2), box=Box(3.0, Point(4, 5)), pair=(6.0, [7, 8]), empty=(), none=collections.OrderedDict()
    )
    found = same(through(nest), [value, value], value)
    assert isinstance(found[2]["point"], Point)
    assert isinstance(found[2]["box"], Box)


@feature("types", "structs with placed elements inside, at any depth")
def test_structs_of_placed_values(same):
    @tff.federated_computation(
        collections.OrderedDict(a=[c.AT_CLIENTS, c.AT_SERVER], b=collections.OrderedDict(n=F, c=c.AT_CLIENTS))
    )
    def mixed(p):
        return Point(p["a"], Box(p["b"]["n"], [tff.federated_sum(p["b"]["c"]), ()]))

    same(mixed, [[1.0, 2.0], 3.0], collections.OrderedDict(n=4.0, c=[5.0, 6.0]))


@feature("types", "unplaced arguments and results")
def test_unplaced(same):
    @tff.federated_computation(F, tff.FederatedType(F, tff.CLIENTS))
    def unplaced(n, x):
        return c.half(n), n, tff.federated_sum(x), (c.minus(n, n), ())

    same(unplaced, 3.0, [1.0, 2.0])
    same(tff.tensorflow.computation(lambda a, b: collections.OrderedDict(a=a, b=b), (F, N)), 1.0, 2)


@feature("types", "datasets as arguments, at clients, at the server and unplaced")
def test_datasets_as_arguments(same):
    rows = tff.SequenceType(collections.OrderedDict(x=tff.TensorType(F, [None, 2]), y=tff.TensorType(np.str_, [None])))
    count = tff.tensorflow.computation(
        lambda ds: ds.reduce(np.int64(0), lambda n, row: n + tf.size(row["y"], out_type=tf.int64)), rows
    )

    def dataset(size):
        columns = collections.OrderedDict(x=np.ones([size, 2], F), y=np.array(["a"] * size, object))
        return tf.data.Dataset.from_tensor_slices(columns).batch(2)

    @tff.federated_computation(tff.FederatedType(rows, tff.CLIENTS), tff.FederatedType(rows, tff.SERVER), rows)
    def counted(x, s, u):
        return tff.federated_sum(tff.federated_map(count, x)), tff.federated_map(count, s), count(u)

    assert same(counted, [dataset(3), dataset(1), dataset(4)], dataset(5), dataset(2)) == (8, 5, 2)


@feature("types", "datasets as results, at clients, at the server and unplaced")
def test_datasets_as_results(same):
    numbers = tff.SequenceType(np.int64)
    up_to = tff.tensorflow.computation(lambda n: tf.data.Dataset.range(tf.cast(n, tf.int64)), N)
    longer = tff.tensorflow.computation(lambda ds: ds.concatenate(tf.data.Dataset.range(1)), numbers)

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS), tff.FederatedType(N, tff.SERVER), N)
    def made(x, s, n):
        at_clients = tff.federated_map(up_to, x)
        at_server = tff.federated_map(up_to, s)
        return at_clients, tff.federated_map(longer, at_clients), at_server, up_to(n)

    same(made, [1, 0, 3], 2, 4)


@feature("types", "a dataset that the server makes and broadcasts")
def test_broadcast_dataset(same):
    numbers = tff.SequenceType(np.int64)
    up_to = tff.tensorflow.computation(lambda n: tf.data.Dataset.range(tf.cast(n, tf.int64)), N)
    total = tff.tensorflow.computation(lambda ds, n: ds.reduce(tf.cast(n, tf.int64), lambda a, b: a + b), (numbers, N))

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS), tff.FederatedType(N, tff.SERVER))
    def sums(x, s):
        spread = tff.federated_broadcast(tff.federated_map(up_to, s))
        return tff.federated_sum(tff.federated_map(total, (spread, x)))

    assert same(sums, [1, 0, 3], 4) == 22


ragged = tff.tensorflow.computation(
    lambda n: tf.RaggedTensor.from_row_lengths(tf.range(tf.cast(n, tf.float32)), [1, n - 1]), N
)
sparse = tff.tensorflow.computation(lambda n: tf.sparse.from_dense(tf.range(n)), N)


@feature("types", "ragged and sparse tensors inside a computation, as their parts")
def test_composites_inside(same):
    parts = tff.StructType(
        [("flat_values", tff.TensorType(F, [None])), ("nested_row_splits", [tff.TensorType(np.int64, [None])])]
    )
    row_sums = tff.tensorflow.computation(
        lambda r: tf.reduce_sum(
            tf.RaggedTensor.from_nested_row_splits(r["flat_values"], r["nested_row_splits"]), axis=1
        ),
        parts,
    )

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS))
    def sums(n):
        return tff.federated_map(row_sums, tff.federated_map(ragged, n))

    assert [list(one) for one in same(sums, [3, 4])] == [[0, 3], [0, 6]]


@feature("types", "ragged and sparse tensors as arguments and results")
def test_composites_across(same):
    whole = ragged.type_signature.result

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS), tff.FederatedType(whole, tff.SERVER))
    def across(n, r):
        return tff.federated_map(ragged, n), tff.federated_map(sparse, n), r

    given = tf.ragged.constant([[1.0], [2.0, 3.0]])
    found, thin, back = same.run_ours(across, [3, 2], given)
    assert [one.to_list() for one in found] == [[[0.0], [1.0, 2.0]], [[0.0], [1.0]]]
    assert [tf.sparse.to_dense(one).numpy().tolist() for one in thin] == [[0, 1, 2], [0, 1]]
    assert back.to_list() == given.to_list()
    with pytest.raises(TypeError):
        same.run_theirs(ragged, 3)
    same.note = "TFF's own context fails"


@feature("types", "TensorFlow, numpy and Python values as arguments")
def test_kinds_of_arguments(same):
    vector = tff.TensorType(F, [2])

    @tff.federated_computation(tff.FederatedType(vector, tff.CLIENTS), tff.FederatedType(vector, tff.SERVER))
    def total(x, s):
        return tff.federated_sum(x), s

    arrays = [np.array([1, 2], F), tf.constant([3.0, 4.0]), [5.0, 6.0]]
    assert list(same(total, arrays, tf.Variable([1.0, 2.0]))[0]) == [9.0, 12.0]


@feature("types", "values that are the same at all clients")
def test_all_equal(same):
    @tff.federated_computation(tff.FederatedType(F, tff.CLIENTS, all_equal=True), c.AT_CLIENTS)
    def all_equal(e, x):
        return e, tff.federated_map(c.half, e), tff.federated_sum(e), tff.federated_sum(x), tff.federated_zip((e, x))

    same(all_equal, 2.0, [1.0, 2.0, 3.0, 4.0])


FUNCTION = tff.FunctionType(F, F)
negative = tff.tensorflow.computation(lambda x: -x, F)


@tff.federated_computation(F)
def half_of_half(x):
    return c.half(c.half(x))


@feature("types", "functions as arguments, alone and in structs", "put into the computation; one plan for each")
def test_functions_as_arguments(same):
    @tff.federated_computation(collections.OrderedDict(a=FUNCTION, b=[FUNCTION]), c.AT_CLIENTS, F)
    def applied(functions, x, n):
        first, second = functions["a"], functions["b"][0]
        return tff.federated_sum(tff.federated_map(first, x)), tff.federated_map(second, tff.federated_max(x)), first(n)

    functions = collections.OrderedDict(a=c.half, b=[half_of_half])
    assert same.run_ours_unexplained(applied, functions, [1.0, 2.0], 4.0) == (1.5, 0.5, 2.0)
    assert same.run_theirs(applied, functions, [1.0, 2.0], 4.0) == (1.5, 0.5, 2.0)
    other = collections.OrderedDict(a=negative, b=[c.half])
    assert same.run_ours_unexplained(applied, other, [1.0, 2.0], 4.0) == (-3.0, 1.0, -4.0)
    alone = tff.federated_computation(lambda f: f(np.float32(3)), FUNCTION)
    assert same.run_ours_unexplained(alone, c.half) == same.run_theirs(alone, c.half) == 1.5
    same.barriers.append(1)


def test_a_function_of_another_type_is_refused(ours):
    applied = tff.federated_computation(lambda f, x: f(x), FUNCTION, F)
    whole = tff.tensorflow.computation(lambda x: x, N)
    for wrong, words in ((whole, "was given for one of type"), (np.abs, "was given for a function")):
        with pytest.raises(UsageError, match=words):
            ours.invoke(applied, tff.structure.Struct([(None, wrong), (None, 1.0)]))


@feature("types", "functions as results, alone and in structs")
def test_functions_as_results(same):
    @tff.federated_computation(c.AT_CLIENTS)
    def given(x):
        return collections.OrderedDict(sum=tff.federated_sum(x), functions=[c.half, negative])

    ours, theirs = same.run_ours(given, [1.0, 2.0]), same.run_theirs(given, [1.0, 2.0])
    assert ours["sum"] == theirs["sum"] == 3.0
    for found, expected in zip(ours["functions"], theirs["functions"], strict=True):
        assert type(found) is type(expected)
        assert found.type == expected.type
    for function, expected in zip(ours["functions"], (2.0, -4.0), strict=True):
        comp = tff.framework.ConcreteComputation(
            computation_proto=function, context_stack=tff.framework.get_context_stack()
        )
        assert same.run_ours_unexplained(comp, 4.0) == expected
    alone = tff.federated_computation(lambda: c.half)
    assert type(same.run_ours(alone)) is type(same.run_theirs(alone))
