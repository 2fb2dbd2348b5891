"""The division of computations into stages, and its explanation."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.plan import ClientStage, ServerStage, explain, make_plan
from tests.support import computations as c


def kinds(comp):
    return [(type(stage), stage.number) for stage in make_plan(comp).stages]


def test_sum_is_one_barrier_and_one_merge():
    assert kinds(c.total) == [(ClientStage, 0), (ServerStage, 1)]
    assert make_plan(c.total).round_trips == 1


def test_mean_broadcast_aggregate_is_two_barriers():
    assert kinds(c.two_barriers) == [(ClientStage, 0), (ServerStage, 1), (ClientStage, 1), (ServerStage, 2)]


def test_computation_without_clients_has_no_barrier():
    assert kinds(c.server_only) == [(ServerStage, 0)]
    assert "the broker is not touched" in str(explain(c.server_only))


def test_aggregates_of_one_stage_are_sent_together():
    stage = make_plan(c.two_barriers).client_stages[0]
    assert len(stage.partials) == 3


def test_client_value_used_after_a_barrier_is_kept_at_the_silo():
    @tff.federated_computation(c.AT_CLIENTS)
    def spread(x):
        halves = tff.federated_map(c.half, x)
        mean = tff.federated_mean(halves)
        return tff.federated_sum(tff.federated_map(c.minus, (halves, tff.federated_broadcast(mean))))

    first, second = make_plan(spread).client_stages
    assert len(first.kept) == 1
    assert first.kept[0] in second.inputs
    assert first.kept[0] not in (*first.partials, *first.returned)


def test_federated_averaging_is_one_round_trip():
    process = tff.learning.algorithms.build_weighted_fed_avg(c.regression, tff.learning.optimizers.build_sgdm(0.1))
    explanation = explain(process.next)
    assert explanation.round_trips == 1
    assert explanation.messages(silos=7) == 14
    assert explain(process.initialize).round_trips == 0


def test_equal_computations_have_equal_bytes():
    first, second = make_plan(c.two_barriers), make_plan(c.two_barriers)
    assert [stage.computation for stage in first.stages] == [stage.computation for stage in second.stages]


def test_random_value_is_evaluated_once_at_the_coordinator():
    @tff.tensorflow.computation
    def draw():
        return tf.random.uniform([])

    @tff.federated_computation(c.AT_CLIENTS)
    def noisy(x):
        value = draw()
        at_clients = tff.federated_map(c.minus, (x, tff.federated_value(value, tff.CLIENTS)))
        return tff.federated_sum(at_clients), tff.federated_value(value, tff.SERVER)

    stages = make_plan(noisy).stages
    assert isinstance(stages[0], ServerStage)
    assert [slot.type for slot in stages[1].inputs if slot.path is None] == [tff.TensorType(np.float32)]


def test_unused_parts_are_not_sent():
    @tff.federated_computation(c.AT_CLIENTS)
    def wasteful(x):
        tff.federated_map(c.half, x)
        return tff.federated_value(np.float32(1), tff.SERVER)

    assert make_plan(wasteful).round_trips == 0


def test_explanation_has_bytes_for_static_shapes():
    vector = tff.FederatedType(tff.TensorType(np.float32, [1000]), tff.CLIENTS)

    @tff.federated_computation(vector, tff.FederatedType(np.int64, tff.SERVER))
    def compare(x, y):
        broadcast = tff.federated_broadcast(y)
        add = tff.tensorflow.computation(lambda a, b: tf.reduce_sum(a) + tf.cast(b, tf.float32))
        return tff.federated_sum(x), tff.federated_sum(tff.federated_map(add, (x, broadcast)))

    (crossing,) = explain(compare).crossings
    assert (crossing.down_bytes, crossing.up_bytes) == (8, 4004)
    text = str(explain(compare))
    assert "3.9 KiB" in text
    assert "round trips: 1" in text


def test_open_shapes_have_no_size():
    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [None]), tff.CLIENTS))
    def first(x):
        return x

    assert explain(first).crossings[0].up_bytes is None
    assert "? B" in str(explain(first))


def test_parameters_are_bound_leaf_by_leaf():
    parameter = collections.OrderedDict(
        a=c.AT_CLIENTS, b=collections.OrderedDict(s=c.AT_SERVER, n=np.int32), e=collections.OrderedDict()
    )

    @tff.federated_computation(parameter)
    def mixed(p):
        return tff.federated_sum(p["a"]), p["b"]["s"], p["b"]["n"]

    assert [(slot.name, slot.path) for slot in make_plan(mixed).parameters] == [
        ("arg_0", (0,)),
        ("arg_1_0", (1, 0)),
        ("arg_1_1", (1, 1)),
        ("arg_2", (2,)),
    ]
