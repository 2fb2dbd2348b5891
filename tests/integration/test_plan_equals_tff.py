"""The law of plans: a computation cut into stages gives the values of TFF's own local context."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support import computations as c
from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

F = np.float32
NUMBERS = tff.FederatedType(F, tff.CLIENTS)


@tff.federated_computation(
    collections.OrderedDict(a=NUMBERS, b=collections.OrderedDict(s=c.AT_SERVER, n=F), e=collections.OrderedDict())
)
def mixed_struct(p):
    return collections.OrderedDict(
        s=tff.federated_sum(p["a"]),
        z=tff.federated_zip([p["b"]["s"], tff.federated_max(p["a"])]),
        n=p["b"]["n"],
        empty=(),
        t=tff.federated_map(c.half, p["a"]),
    )


@tff.federated_computation
def no_parameter():
    two = tff.federated_eval(tff.tensorflow.computation(lambda: tf.constant(2.0)), tff.SERVER)
    return tff.federated_value(F(3), tff.SERVER), collections.OrderedDict(a=two), ()


@tff.federated_computation(F)
def unplaced(x):
    return c.half(x), x


@tff.federated_computation(NUMBERS)
def identity(x):
    return x


@tff.federated_computation(tff.FederatedType(np.str_, tff.CLIENTS))
def strings(x):
    return x


@tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
def sequences(x):
    total = tff.tensorflow.computation(
        lambda ds: ds.reduce(np.int32(0), lambda a, b: a + b), tff.SequenceType(np.int32)
    )
    return tff.federated_sum(tff.federated_map(total, x))


@tff.federated_computation(NUMBERS, F)
def zero_from_parameter(x, z):
    add = tff.tensorflow.computation(lambda a, b: a + b, (F, F))
    twice = tff.tensorflow.computation(lambda a: a * 2, F)
    return tff.federated_aggregate(x, c.half(z), add, add, twice)


@tff.federated_computation(NUMBERS)
def from_clients(x):
    one = tff.federated_eval(tff.tensorflow.computation(lambda: tf.constant(1)), tff.CLIENTS)
    return tff.federated_sum(one), tff.federated_sum(tff.federated_value(2, tff.CLIENTS)), tff.federated_sum(x)


@tff.federated_computation(NUMBERS)
def composed(x):
    """Return a lambda of several computations, for clients and for the server."""
    times = tff.tensorflow.computation(lambda a, b: a * b, (F, F))
    three = tff.tensorflow.computation(lambda: tf.constant(3.0))

    @tff.federated_computation(F)
    def scaled(value):
        return times(c.half(value), c.minus(value, three()))

    return tff.federated_sum(tff.federated_map(scaled, x)), tff.federated_map(scaled, tff.federated_max(x))


VECTOR = tff.TensorType(F, [None])


@tff.federated_computation(
    tff.FederatedType(np.int32, tff.CLIENTS),
    tff.FederatedType(np.int32, tff.SERVER),
    tff.FederatedType(VECTOR, tff.SERVER),
)
def selecting(row, rows, table):
    """Select one row of the server's table for each client, by key."""
    pick = tff.tensorflow.computation(lambda values, key: tf.gather(values, key), (VECTOR, np.int32))
    keys = tff.tensorflow.computation(lambda number: tf.reshape(number, [1]), np.int32)
    add = tff.tensorflow.computation(lambda ds: ds.reduce(F(0), lambda a, b: a + b), tff.SequenceType(F))
    selected = tff.federated_select(tff.federated_map(keys, row), rows, table, pick)
    return tff.federated_sum(tff.federated_map(add, selected))


CASES = {
    "a composed function": (composed, ([1.0, 2.0, 3.0],)),
    "select": (selecting, ([0, 2, 2], 3, np.array([1.0, 2.0, 4.0], F))),
    "two barriers": (c.two_barriers, ([1.0, 2.0, 3.0, 7.0], 4.0)),
    "server only": (c.server_only, (1.5,)),
    "mixed struct": (mixed_struct, (collections.OrderedDict(a=[1.0, 2.0], b={"s": 2.0, "n": 1.5}, e={}),)),
    "no parameter": (no_parameter, ()),
    "unplaced": (unplaced, (3.0,)),
    "identity": (identity, ([1.0, 2.0, 3.0],)),
    "strings": (strings, (["a", "bc", "d"],)),
    "sequences": (sequences, ([[1, 2], [3], [4, 5, 6]],)),
    "zero from a parameter": (zero_from_parameter, ([1.0, 2.0, 3.0], 0.0)),
    "values from clients": (from_clients, ([1.0, 2.0],)),
    "no clients": (c.total, ([],)),
    "one TensorFlow computation": (c.half, (3.0,)),
}


@pytest.mark.parametrize("silos", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_computation_equals_tff(direct, tff_local, name, silos):
    comp, args = CASES[name]
    assert_same(direct(comp, *args, silos=silos), tff_local(comp, *args))


@pytest.mark.parametrize("process", ["fed_avg", "robust", "mime_lite", "eval"])
def test_learning_process_equals_tff(direct, tff_local, process):
    sgd = tff.learning.optimizers.build_sgdm(0.1)
    algorithms = tff.learning.algorithms
    learning = {
        "fed_avg": lambda: algorithms.build_weighted_fed_avg(c.regression, sgd),
        "robust": lambda: algorithms.build_weighted_fed_avg(
            c.regression, sgd, model_aggregator=tff.learning.robust_aggregator()
        ),
        "mime_lite": lambda: algorithms.build_weighted_mime_lite(c.regression, sgd),
        "eval": lambda: algorithms.build_fed_eval(c.regression),
    }[process]()
    state = tff_local(learning.initialize)
    data = c.client_data(5, 9, 12)
    assert_same(direct(learning.next, state, data), tff_local(learning.next, state, data))


def test_random_value_is_drawn_once_for_all_uses(direct):
    draw = tff.tensorflow.computation(lambda: tf.random.uniform([]))

    @tff.federated_computation(NUMBERS)
    def differences(x):
        value = draw()
        at_clients = tff.federated_value(value, tff.CLIENTS)
        at_server = tff.federated_broadcast(tff.federated_value(value, tff.SERVER))
        return tff.federated_max(tff.federated_map(c.minus, (at_clients, at_server))), tff.federated_sum(x)

    difference, _ = direct(differences, [1.0, 2.0, 3.0])
    assert difference == 0.0


def test_all_equal_parameter_equals_tff(direct):
    @tff.federated_computation(tff.FederatedType(F, tff.CLIENTS, all_equal=True))
    def halved(x):
        return x, tff.federated_map(c.half, x), tff.federated_sum(x)

    assert direct(halved, 2.0, silos=3) == (2.0, [1.0, 1.0, 1.0], 6.0)
