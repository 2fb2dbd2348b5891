"""TFF's algorithms run on silo processes whose policy releases only recognised aggregates."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import PolicyRefusal
from fedbroker.testing import local_cohort
from tests.support.local_tff import pack_arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

F = np.float32
STRICT = {"client_results": "refuse", "aggregates": "recognised", "min_clients": 2}
SOURCES = {
    "rows": {
        "source": "duckdb",
        "query": "select [i, i % 3]::float[2] as x, [i]::float[1] as y, (i % 4)::varchar as who from range(12) t(i)",
        "clients": "who",
    },
    "numbers": {
        "source": "duckdb",
        "query": "select i::float as x, i::varchar as who from range(1, 5) t(i)",
        "clients": "who",
    },
}
NUMBERS = tff.FederatedType(F, tff.CLIENTS)
VECTOR = tff.TensorType(F, [3])


@pytest.fixture(scope="module")
def silos(broker):
    with local_cohort(2, sources=SOURCES, cohort="recognised", broker=broker.url, policy=STRICT) as cohort:
        yield cohort


@pytest.fixture(scope="module")
def run(silos):
    with fedbroker.create_sync_execution_context(
        silos.url, cohort=silos.cohort, min_silos=2, options=fedbroker.Options(secure_sum="plaintext")
    ) as context:
        yield lambda comp, *args: context.invoke(comp, pack_arguments(comp, args))


def test_sums_means_and_extremes_are_released(run):
    @tff.federated_computation(NUMBERS)
    def several(x):
        return tff.federated_sum(x), tff.federated_mean(x), tff.federated_min(x), tff.federated_max(x)

    assert tuple(run(several, fedbroker.data("numbers"))) == (20, 2.5, 1, 4)


SPEC = (tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None, 1], tf.float32))


def model():
    keras = tf.keras.Sequential(
        [tf.keras.layers.InputLayer((2,)), tf.keras.layers.Dense(1, kernel_initializer="zeros")]
    )
    return tff.learning.models.from_keras_model(
        keras, tf.keras.losses.MeanSquaredError(), input_spec=SPEC, metrics=[tf.keras.metrics.MeanAbsoluteError()]
    )


SGD = tff.learning.optimizers.build_sgdm(0.01)
BATCHES = [tf.data.Dataset.from_tensor_slices((np.ones([4, 2], F), np.ones([4, 1], F))).batch(2)] * 4


@pytest.mark.parametrize(
    "build",
    [
        lambda: tff.learning.algorithms.build_weighted_fed_avg(model, SGD),
        lambda: tff.learning.algorithms.build_unweighted_fed_avg(
            model, SGD, model_aggregator=tff.learning.robust_aggregator(weighted=False)
        ),
        lambda: tff.learning.algorithms.build_weighted_fed_avg(
            model, SGD, model_aggregator=tff.learning.secure_aggregator()
        ),
        lambda: tff.learning.algorithms.build_fed_eval(model),
    ],
    ids=["weighted", "robust", "secure in plaintext", "evaluation"],
)
def test_learning_algorithms_are_released(run, build):
    process = build()
    state = run(process.initialize)
    output = run(process.next, state, BATCHES)
    assert output.metrics


@pytest.mark.parametrize(
    "factory",
    [
        lambda: tff.aggregators.DifferentiallyPrivateFactory.gaussian_adaptive(0.0, 4),
        lambda: tff.aggregators.zeroing_factory(9.0, tff.aggregators.SumFactory()),
        lambda: tff.aggregators.HadamardTransformFactory(),
    ],
    ids=["private", "zeroing", "rotated"],
)
def test_aggregators_are_released(run, factory):
    process = factory().create(VECTOR)
    output = run(process.next, run(process.initialize), [np.ones(3, F)] * 4)
    assert np.shape(output.result) == (3,)


def test_sampler_is_refused_and_the_silo_continues(run):
    process = tff.aggregators.UnweightedReservoirSamplingFactory(sample_size=3).create(VECTOR)
    with pytest.raises(PolicyRefusal, match="its accumulate") as caught:
        run(process.next, run(process.initialize), [np.ones(3, F)] * 4)
    assert caught.value.rule == "aggregates"
    test_sums_means_and_extremes_are_released(run)


def test_values_kept_between_stages_keep_their_labels(run):
    """Run three barriers; values kept between them belong to clients, and their sums are aggregates."""
    minus = tff.tensorflow.computation(lambda x, mean: x - mean, F, F)
    square = tff.tensorflow.computation(lambda x: x * x, F)

    @tff.federated_computation(NUMBERS)
    def moments(x):
        mean = tff.federated_broadcast(tff.federated_mean(x))
        centred = tff.federated_map(minus, (x, mean))
        variance = tff.federated_mean(tff.federated_map(square, centred))
        again = tff.federated_map(minus, (centred, tff.federated_broadcast(variance)))
        return variance, tff.federated_sum(again)

    assert tuple(run(moments, fedbroker.data("numbers"))) == (1.25, -10.0)
