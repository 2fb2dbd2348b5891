"""Every intrinsic of TFF's federated language."""

from __future__ import annotations

import collections

import grpc
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support import computations as c
from tests.support.conformance import feature

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F, N = np.float32, np.int32
FLOATS = tff.FederatedType(F, tff.CLIENTS)
INTS = tff.FederatedType(N, tff.CLIENTS)
KEYS = tff.FederatedType(tff.TensorType(N, [2]), tff.CLIENTS)

add = tff.tensorflow.computation(lambda a, b: a + b, (F, F))
add_ints = tff.tensorflow.computation(lambda a, b: a + b, (N, N))
square = tff.tensorflow.computation(lambda a: a * a, F)
dataset = tff.tensorflow.computation(
    lambda n: tf.data.Dataset.range(tf.cast(n, tf.int64)).map(lambda i: tf.cast(i, tf.int32)), N
)


@feature("intrinsics", "federated_sum, _mean, _min, _max")
def test_sums(same):
    @tff.federated_computation(FLOATS, FLOATS)
    def stats(x, w):
        return (
            tff.federated_sum(x),
            tff.federated_mean(x),
            tff.federated_mean(x, w),
            tff.federated_min(x),
            tff.federated_max(x),
        )

    assert same(stats, [1.0, 2.0, 6.0], [1.0, 1.0, 2.0])[:2] == (9.0, 3.0)


@feature("intrinsics", "federated_aggregate")
def test_aggregate(same):
    @tff.federated_computation(FLOATS)
    def squares(x):
        accumulate = tff.tensorflow.computation(
            lambda s, v: collections.OrderedDict(n=s["n"] + 1, sum=s["sum"] + v * v),
            (collections.OrderedDict(n=N, sum=F), F),
        )
        merge = tff.tensorflow.computation(
            lambda a, b: collections.OrderedDict(n=a["n"] + b["n"], sum=a["sum"] + b["sum"]),
            (collections.OrderedDict(n=N, sum=F), collections.OrderedDict(n=N, sum=F)),
        )
        report = tff.tensorflow.computation(
            lambda s: s["sum"] / tf.cast(s["n"], tf.float32), collections.OrderedDict(n=N, sum=F)
        )
        zero = tff.tensorflow.computation(lambda: collections.OrderedDict(n=0, sum=0.0))
        return tff.federated_aggregate(x, zero(), accumulate, merge, report)

    assert same(squares, [1.0, 2.0, 2.0]) == 3.0


@feature("intrinsics", "federated_aggregate whose zero depends on other values")
def test_aggregate_with_computed_zero(same):
    @tff.federated_computation(FLOATS, F)
    def shifted(x, z):
        return tff.federated_aggregate(x, c.minus(square(z), square(z)), add, add, square)

    assert same(shifted, [1.0, 2.0, 3.0], 2.0) == 36.0


@feature("intrinsics", "aggregates whose parts call other computations")
def test_aggregate_with_composed_parts(same):
    two = tff.tensorflow.computation(lambda: tf.constant(2.0))

    @tff.federated_computation(F, F)
    def accumulate(total, value):
        return add(total, add(value, two()))

    @tff.federated_computation(F)
    def report(total):
        return square(add(total, two()))

    @tff.federated_computation(FLOATS)
    def total(x):
        return tff.federated_aggregate(x, 0.0, accumulate, add, report)

    assert same(total, [1.0, 2.0, 3.0]) == 14.0**2


@feature("intrinsics", "federated_select", "runs at the silos; the server's value and the largest key are broadcast")
def test_select(same):
    values = tff.TensorType(F, [5])
    pick = tff.tensorflow.computation(lambda v, key: tf.gather(v, key), (values, N))

    @tff.federated_computation(KEYS, tff.FederatedType(N, tff.SERVER), tff.FederatedType(values, tff.SERVER))
    def select(keys, max_key, value):
        chosen = tff.federated_select(keys, max_key, value, pick)
        total = tff.tensorflow.computation(lambda ds: ds.reduce(np.float32(0), lambda a, b: a + b), tff.SequenceType(F))
        return tff.federated_sum(tff.federated_map(total, chosen)), tff.federated_map(total, chosen)

    found = same(select, [[0, 1], [1, 2], [4, 4]], 5, np.arange(5, dtype=F))
    assert found == (12.0, [1.0, 3.0, 8.0])


@feature("intrinsics", "federated_broadcast, _map, _apply, _zip, _value, _eval")
def test_placed_values(same):
    three = tff.tensorflow.computation(lambda: tf.constant(3.0))

    @tff.federated_computation(FLOATS, c.AT_SERVER)
    def placed(x, s):
        spread = tff.federated_broadcast(s)
        both = tff.federated_map(add, tff.federated_zip((x, spread)))
        named = tff.federated_zip(collections.OrderedDict(a=x, b=both, c=tff.federated_eval(three, tff.CLIENTS)))
        at_server = tff.federated_zip((s, tff.federated_value(2.0, tff.SERVER), tff.federated_eval(three, tff.SERVER)))
        return named, at_server, tff.federated_map(square, s), tff.federated_value(1, tff.CLIENTS), spread

    same(placed, [1.0, 2.0, 3.0], 4.0)


@tff.federated_computation(tff.SequenceType(F))
def reduced(sequence):
    return tff.sequence_reduce(tff.sequence_map(square, sequence), 0.0, add), tff.sequence_reduce(sequence, 0.0, add)


@tff.federated_computation(tff.SequenceType(F))
def summed(sequence):
    return tff.sequence_sum(tff.sequence_map(square, sequence)), tff.sequence_sum(sequence)


SEQUENCES = tff.FederatedType(tff.SequenceType(F), tff.CLIENTS)
SEQUENCE = tff.FederatedType(tff.SequenceType(F), tff.SERVER)


@feature("intrinsics", "sequence_map and sequence_reduce, of clients, of the server and unplaced")
def test_sequences(same):
    at_clients = tff.federated_computation(lambda x: tff.federated_map(reduced, x), SEQUENCES)
    totals = tff.federated_computation(lambda x: tff.federated_sum(tff.federated_map(reduced, x)), SEQUENCES)
    at_server = tff.federated_computation(lambda x: tff.federated_map(reduced, x), SEQUENCE)
    assert same(at_clients, [[1.0, 2.0], [], [3.0]]) == [(5.0, 3.0), (0.0, 0.0), (9.0, 3.0)]
    assert same(totals, [[1.0, 2.0], [], [3.0]]) == (14.0, 6.0)
    assert same(at_server, [1.0, 2.0, 3.0]) == (14.0, 6.0)
    assert same(reduced, [1.0, 2.0, 3.0]) == (14.0, 6.0)


@feature("intrinsics", "sequence_sum")
def test_sequence_sum(same):
    totals = tff.federated_computation(lambda x: tff.federated_sum(tff.federated_map(summed, x)), SEQUENCES)
    at_server = tff.federated_computation(lambda x: tff.federated_map(summed, x), SEQUENCE)
    same.beyond((F(14), F(6)), totals, [[1.0, 2.0], [], [3.0]])
    same.beyond((F(14), F(6)), at_server, [1.0, 2.0, 3.0])
    same.beyond((F(14), F(6)), summed, [1.0, 2.0, 3.0])


@feature("intrinsics", "sequence_map whose result is returned, structs in sequences")
def test_mapped_sequences(same):
    pair = tff.tensorflow.computation(lambda a: collections.OrderedDict(a=a, b=a * 2), F)
    both = collections.OrderedDict(a=F, b=F)
    product = tff.tensorflow.computation(lambda s, p: s + p["a"] * p["b"], (F, both))

    @tff.federated_computation(SEQUENCES)
    def products(x):
        @tff.federated_computation(tff.SequenceType(F))
        def total(sequence):
            return tff.sequence_sum(tff.sequence_map(pair, sequence)), tff.sequence_reduce(
                tff.sequence_map(pair, sequence), 0.0, product
            )

        return tff.federated_map(total, x)

    expected = [
        (collections.OrderedDict(a=F(3), b=F(6)), F(10)),
        (collections.OrderedDict(a=F(0), b=F(0)), F(0)),
        (collections.OrderedDict(a=F(3), b=F(6)), F(18)),
    ]
    same.beyond(expected, products, [[1.0, 2.0], [], [3.0]])
    mapped = tff.federated_computation(lambda x: tff.federated_map(doubled, x), SEQUENCE)
    assert list(same.run_ours(mapped, [1.0, 2.0]).as_numpy_iterator()) == [2.0, 4.0]


@tff.federated_computation(tff.SequenceType(F))
def doubled(sequence):
    return tff.sequence_map(tff.tensorflow.computation(lambda a: a * 2, F), sequence)


@feature("intrinsics", "aggregates of aggregates", "one barrier each, as many as the program has")
def test_aggregates_of_aggregates(same):
    @tff.federated_computation(FLOATS)
    def moments(x):
        centred, found = x, []
        for _ in range(4):
            mean = tff.federated_mean(centred)
            found.append(mean)
            centred = tff.federated_map(
                tff.tensorflow.computation(lambda v, m: (v - m) * (v - m), (F, F)),
                (centred, tff.federated_broadcast(mean)),
            )
        return found

    same(moments, [1.0, 2.0, 6.0])
    assert same.barriers == [4]


@feature("intrinsics", "a client value used before and after a barrier", "kept at the silo, never moved")
def test_client_values_are_kept(same):
    @tff.federated_computation(FLOATS)
    def twice(x):
        y = tff.federated_map(square, x)
        mean = tff.federated_broadcast(tff.federated_mean(y))
        off = tff.federated_map(c.minus, (y, mean))
        again = tff.federated_map(c.minus, (x, mean))
        return tff.federated_sum(off), tff.federated_sum(again), y, again

    same(twice, [1.0, 2.0, 6.0])
    assert same.barriers == [2]


@feature("intrinsics", "nested federated computations and lambdas")
def test_nested(same):
    @tff.federated_computation(FLOATS)
    def inner(x):
        return tff.federated_mean(x), tff.federated_sum(x)

    @tff.federated_computation(collections.OrderedDict(a=FLOATS, b=FLOATS))
    def outer(p):
        mean, total = inner(p["a"])
        return collections.OrderedDict(first=inner(p["b"]), mean=mean, sum=tff.federated_map(square, total))

    same(outer, [1.0, 2.0, 3.0], [4.0, 5.0, 9.0])


@feature("intrinsics", "structs of functions inside a computation")
def test_structs_of_functions(same):
    @tff.federated_computation(FLOATS)
    def chosen(x):
        functions = collections.OrderedDict(half=c.half, square=square)
        return [tff.federated_sum(tff.federated_map(function, x)) for function in functions.values()]

    same(chosen, [1.0, 2.0, 3.0])


@feature("intrinsics", "random numbers", "one draw, at the coordinator, for both sides")
def test_random_numbers_are_drawn_once(same):
    draw = tff.tensorflow.computation(lambda: tf.random.uniform([]))

    @tff.federated_computation(FLOATS)
    def drawn(x):
        value = draw()
        at_clients = tff.federated_value(value, tff.CLIENTS)
        spread = tff.federated_broadcast(tff.federated_value(value, tff.SERVER))
        return tff.federated_sum(tff.federated_map(c.minus, (at_clients, spread))), tff.federated_sum(x)

    assert same(drawn, [1.0, 2.0, 3.0]) == (0.0, 6.0)


@feature("intrinsics", "computations without clients", "run at the coordinator; the broker is not touched")
def test_without_clients(same):
    same(c.server_only, 3.0)
    same(c.half, 3.0)
    assert same.barriers == [0, 0]


@feature("intrinsics", "sequences made by TensorFlow and reduced by TFF")
def test_made_sequences(same):
    @tff.federated_computation(INTS)
    def sizes(x):
        @tff.federated_computation(N)
        def up_to(n):
            return tff.sequence_reduce(dataset(n), 0, add_ints)

        return tff.federated_map(up_to, x), tff.federated_map(dataset, x)

    (sums, made) = same.run_ours(sizes, [1, 2, 4])
    assert sums == [0, 1, 6]
    assert [list(dataset.as_numpy_iterator()) for dataset in made] == [[0], [0, 1], [0, 1, 2, 3]]
    with pytest.raises(grpc.RpcError, match="sequence_reduce"):
        same.run_theirs(sizes, [1, 2, 4])
    same.note = "TFF's own context fails"
