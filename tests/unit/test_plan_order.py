"""A stage's computation binds every value before the values that refer to it, also where stages repeat values."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan import make_plan
from fedbroker.plan.blocks import free
from fedbroker.plan.build import in_order_of_use
from fedbroker.runtime.protos import executor_pb2

F = np.float32
draw = tff.tensorflow.computation(lambda: (tf.random.uniform([]), tf.timestamp()))
plus = tff.tensorflow.computation(lambda x: x + 1.0, F)


def reference(name):
    return bb.Reference(name, tff.TensorType(F))


def needs(*names):
    return bb.Struct([reference(name) for name in names])


def test_order_of_values_is_kept_where_it_is_right():
    bodies = [("a", needs("x")), ("c", needs()), ("b", needs("a", "x"))]
    assert in_order_of_use(bodies) == bodies


def test_values_move_after_those_that_they_refer_to():
    bodies = [("c", needs("b", "e")), ("b", needs("a")), ("d", needs()), ("a", needs("x")), ("e", needs("a"))]
    assert [name for name, _ in in_order_of_use(bodies)] == ["d", "a", "b", "e", "c"]


@pytest.mark.parametrize("length", [5000])
def test_long_chains_are_ordered(length):
    bodies = [(f"v{at}", needs(f"v{at - 1}")) for at in range(length, 0, -1)]
    assert [name for name, _ in in_order_of_use(bodies)] == [f"v{at}" for at in range(1, length + 1)]


@tff.federated_computation(tff.FederatedType(F, tff.CLIENTS))
def mixed(x):
    number, _ = draw()
    more = plus(plus(number))
    at_server = tff.federated_value(more, tff.SERVER)
    at_clients = tff.federated_value(plus(more), tff.CLIENTS)
    return at_server, tff.federated_sum(at_clients), tff.federated_sum(x), more


def test_no_stage_refers_to_a_value_that_it_binds_later():
    for stage in make_plan(mixed).stages:
        value = executor_pb2.Value.FromString(stage.computation)
        assert list(free(bb.ComputationBuildingBlock.from_proto(value.computation))) == []
