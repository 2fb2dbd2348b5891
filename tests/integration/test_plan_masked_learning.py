"""TFF's secure aggregators and analytics have the same result masked as in plaintext."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from fedbroker.plan import make_plan
from fedbroker.plan.model import ServerStage
from tests.support import computations
from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

Odict = collections.OrderedDict
F = np.float32
MODEL = tff.types.to_type([(F, (3,)), (F, (2, 2))])
MODELS = [[np.full(3, at, F), np.full((2, 2), 1 / (at + 1), F)] for at in range(5)]
WEIGHTS = [F(at + 1) for at in range(5)]


def crossings(comp):
    """Return the number of masked sums and of merges, and the largest bound of each masked tensor."""
    servers = [stage for stage in make_plan(comp, secure_sum="masked").stages if isinstance(stage, ServerStage)]
    sums = [one for stage in servers for one in stage.sums]
    return len(sums), sum(len(stage.merges) for stage in servers), sums


def same_over_rounds(masked, direct, process, *values, rounds=2):
    """Compare the outputs of some rounds, each with the state of the one before."""
    state = plain_state = process.initialize()
    for _ in range(rounds):
        found = masked(process.next, state, *values)
        plain = direct(process.next, plain_state, *values, secure_sum="plaintext")
        assert_same(found, plain)
        state, plain_state = found.state, plain.state


AGGREGATORS = {
    "secure_aggregator": (lambda: tff.learning.secure_aggregator().create(MODEL, tff.TensorType(F)), 18, True),
    "ddp_secure_aggregator": (lambda: tff.learning.ddp_secure_aggregator(1e-2, 5).create(MODEL), 17, False),
    "SecureSumFactory of integers": (
        lambda: tff.aggregators.SecureSumFactory(6, -5).create(tff.TensorType(np.int32, [3])),
        4,
        False,
    ),
    "SecureModularSumFactory": (
        lambda: tff.aggregators.SecureModularSumFactory(8, True).create(tff.TensorType(np.int32, [3])),
        1,
        False,
    ),
}


@pytest.fixture(autouse=True, scope="module")
def runtime_of_tff():
    """Initialize processes in TFF's own local context."""
    from tests.support.local_tff import local_context

    before = tff.framework.get_context_stack().current
    tff.framework.set_default_context(local_context())
    yield
    tff.framework.set_default_context(before)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_aggregators(masked, direct, name):
    make, count, weighted = AGGREGATORS[name]
    process = make()
    sums, merges, found = crossings(process.next)
    assert (sums, merges) == (count, 0)
    assert all(tensor.largest or tensor.modulus for one in found for tensor in one.tensors)
    assert make_plan(process.next, secure_sum="masked").round_trips == 1
    if name == "ddp_secure_aggregator":
        assert masked(process.next, process.initialize(), MODELS).result is not None  # it adds random noise
    elif weighted:
        same_over_rounds(masked, direct, process, MODELS, WEIGHTS)
    else:
        values = [np.array([at, -at, 3], np.int32) for at in range(5)]
        same_over_rounds(masked, direct, process, values)


def test_training_with_secure_models_and_metrics(masked, direct):
    pair = [(0.0, 100.0), (0.0, 100.0)]  # of a metric that is a mean
    ranges = Odict(loss=pair, mean_absolute_error=pair, num_examples=[(0, 100)])
    process = tff.learning.algorithms.build_weighted_fed_avg(
        computations.regression,
        tff.learning.optimizers.build_sgdm(0.01),
        model_aggregator=tff.learning.secure_aggregator(),
        metrics_aggregator=functools.partial(tff.learning.metrics.secure_sum_then_finalize, metric_value_ranges=ranges),
    )
    sums, merges, _ = crossings(process.next)
    assert (sums > 18, merges) == (True, 0)
    same_over_rounds(masked, direct, process, computations.client_data(8, 5, 0, 3), rounds=1)


def test_invertible_bloom_lookup_tables(masked, direct):
    words = tff.analytics.heavy_hitters.iblt.build_iblt_computation(
        capacity=20,
        string_max_bytes=8,
        batch_size=1,
        repetitions=3,
        secure_sum_bitwidth=20,
        multi_contribution=False,
    )
    clients = [tf.data.Dataset.from_tensor_slices([word.encode(), b"lga"]).batch(1) for word in ("ewr", "jfk", "ewr")]
    found, plain = masked(words, clients), direct(words, clients, secure_sum="plaintext")
    assert_same(sorted(found.heavy_hitters), sorted(plain.heavy_hitters))
    assert crossings(words)[0] > 0


def test_several_barriers_and_ordinary_aggregates(masked, direct):
    ints = tff.FederatedType(np.int32, tff.CLIENTS)
    clipped = tff.tensorflow.computation(lambda x, most: tf.minimum(x, most), (np.int32, np.int32))
    doubled = tff.tensorflow.computation(lambda x: x * 2, np.int32)
    scaled = tff.tensorflow.computation(lambda x, y: x * y, (np.int32, np.int32))

    @tff.federated_computation(ints, tff.FederatedType(np.int32, tff.SERVER))
    def program(x, factor):
        values = tff.federated_map(doubled, x)
        total = tff.federated_secure_sum_bitwidth(values, 6)
        plain = tff.federated_sum(x)
        again = tff.federated_map(clipped, (values, tff.federated_broadcast(total)))
        second = tff.federated_secure_sum(again, 50), intrinsics.federated_secure_modular_sum(again, 7)
        product = tff.federated_map(scaled, (total, factor))
        return total, plain, second, product, tff.federated_secure_sum(again, 99), x

    clients = [1, 5, 20, 7, 4]
    assert_same(masked(program, clients, 3), direct(program, clients, 3, secure_sum="plaintext"))
    servers = [one for one in make_plan(program, secure_sum="masked").stages if isinstance(one, ServerStage)]
    assert [(len(one.sums), len(one.merges)) for one in servers] == [(0, 0), (1, 1), (3, 0)]
