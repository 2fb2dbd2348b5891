"""TFF's aggregates that a silo recognises: one test for each row of the tables in docs/silo.md."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.errors import PolicyRefused
from fedbroker_worker.policy.aggregates import check_labels
from fedbroker_worker.policy.rules import PolicySettings
from tensorflow_federated.python.aggregators import discretization, distributed_dp, modular_clipping
from tensorflow_federated.python.analytics.hierarchical_histogram import hierarchical_histogram_lib as histograms

from tests.support import computations as c
from tests.support.labels import labels_of_plan

PAGE = Path(__file__).parents[2] / "docs" / "silo.md"
POLICY = PolicySettings(aggregates="recognised")

F, N = np.float32, np.int32
VECTOR = tff.TensorType(F, [3])
STRUCT = tff.to_type(collections.OrderedDict(a=VECTOR, b=F))
NUMBERS = tff.FederatedType(F, tff.CLIENTS)
ROWS = tff.FederatedType(STRUCT, tff.CLIENTS)

aggregators = tff.aggregators
algorithms = tff.learning.algorithms
private = aggregators.DifferentiallyPrivateFactory
quantile = aggregators.PrivateQuantileEstimationProcess
SGD = tff.learning.optimizers.build_sgdm(0.1)
BATCHES = tff.SequenceType(tff.TensorType(np.str_, [None]))


def summed(factory, type_=VECTOR):
    return factory.create(type_).next


def averaged(factory, type_=VECTOR):
    return factory.create(type_, tff.TensorType(F)).next


def of(function, *types):
    return tff.federated_computation(function, *types)


def over_clients(way):
    """Return one of TFF's operators over structs."""
    return lambda: of(way, ROWS)


def histogram():
    return histograms.build_hierarchical_histogram_process(0.0, 8.0, 4).next


def appended():
    row = tff.TensorType(F, [None])
    append = tff.tensorflow.computation(lambda so_far, value: tf.concat([so_far, [value]], 0), row, F)
    join = tff.tensorflow.computation(lambda one, other: tf.concat([one, other], 0), row, row)
    zero = tff.tensorflow.computation(lambda: tf.zeros([0]))
    same = tff.tensorflow.computation(lambda total: total, row)
    return of(lambda x: tff.federated_aggregate(x, zero(), append, join, same), NUMBERS)


def personalized():
    def fit(model, train, test):
        return collections.OrderedDict(rows=train.reduce(0.0, lambda total, _: total + 1.0))

    def look(model, data):
        return collections.OrderedDict(rows=data.reduce(0.0, lambda total, _: total + 1.0))

    build = algorithms.build_personalization_eval_computation
    return build(c.regression, collections.OrderedDict(fit=lambda: fit), look, max_num_clients=3)


def sampled_metrics():
    finalizers = collections.OrderedDict(loss=tf.function(lambda total: total[0] / total[1]))
    type_ = tff.to_type(collections.OrderedDict(loss=[F, F]))
    sample = tff.learning.metrics.finalize_then_sample(finalizers, type_)
    return of(lambda x: sample(x), tff.FederatedType(type_, tff.CLIENTS))


def histogram_of_words():
    words, row = tff.TensorType(np.str_, [None]), tff.to_type([(np.str_, [None]), (N, [None])])
    start = tff.tensorflow.computation(lambda: (tf.zeros([0], tf.string), tf.zeros([0], tf.int32)))

    def joined(keys, counts):
        distinct, index = tf.unique(tf.concat(keys, 0))
        return distinct, tf.math.unsorted_segment_sum(tf.concat(counts, 0), index, tf.size(distinct))

    add = tff.tensorflow.computation(
        lambda so_far, own: joined([so_far[0], own], [so_far[1], tf.ones_like(own, tf.int32)]), row, words
    )
    merge = tff.tensorflow.computation(lambda a, b: joined([a[0], b[0]], [a[1], b[1]]), row, row)
    same = tff.tensorflow.computation(lambda total: total, row)
    return of(lambda x: tff.federated_aggregate(x, start(), add, merge, same), tff.FederatedType(words, tff.CLIENTS))


def counted():
    add = tff.tensorflow.computation(lambda so_far, value: so_far + tf.cast(value > 0, tf.int32), N, F)
    merge = tff.tensorflow.computation(lambda one, other: one + other, N, N)
    same = tff.tensorflow.computation(lambda total: total, N)
    return of(lambda x: tff.federated_aggregate(x, N(0), add, merge, same), NUMBERS)


PASSES = {
    "`federated_sum`": over_clients(tff.federated_sum),
    "`federated_mean`": over_clients(lambda x: tff.federated_mean(x)),
    "weighted `federated_mean`": lambda: of(lambda x, weight: tff.federated_mean(x, weight), ROWS, NUMBERS),
    "`federated_min`, `federated_max`": lambda: of(lambda x: (tff.federated_min(x), tff.federated_max(x)), NUMBERS),
    "a count by `federated_aggregate`": counted,
    "`SumFactory`": lambda: summed(aggregators.SumFactory(), STRUCT),
    "`MeanFactory`": lambda: averaged(aggregators.MeanFactory(), STRUCT),
    "`UnweightedMeanFactory`": lambda: summed(aggregators.UnweightedMeanFactory()),
    "`concat_factory`": lambda: summed(aggregators.concat_factory(aggregators.SumFactory()), STRUCT),
    "`PrivateQuantileEstimationProcess`": lambda: quantile.no_noise(1.0, 0.5, 1.0).next,
    "`clipping_factory`": lambda: summed(aggregators.clipping_factory(1.0, aggregators.SumFactory())),
    "`zeroing_factory`": lambda: summed(aggregators.zeroing_factory(1.0, aggregators.SumFactory())),
    "`robust_aggregator`": lambda: averaged(tff.learning.robust_aggregator()),
    "`HadamardTransformFactory`": lambda: summed(aggregators.HadamardTransformFactory()),
    "`DiscreteFourierTransformFactory`": lambda: summed(aggregators.DiscreteFourierTransformFactory()),
    "`DiscretizationFactory`": lambda: summed(
        discretization.DiscretizationFactory(aggregators.SumFactory(), scale_factor=8.0, stochastic=True)
    ),
    "`ModularClippingSumFactory`": lambda: summed(
        modular_clipping.ModularClippingSumFactory(-4, 4), tff.TensorType(N, [3])
    ),
    "`DifferentiallyPrivateFactory.gaussian_fixed`": lambda: summed(private.gaussian_fixed(1.0, 9, clip=1.0)),
    "`DifferentiallyPrivateFactory.gaussian_adaptive`": lambda: summed(private.gaussian_adaptive(0.1, 1000)),
    "`DifferentiallyPrivateFactory.tree_aggregation`": lambda: summed(
        private.tree_aggregation(1.0, 9, 9.0, tf.TensorSpec([3]))
    ),
    "`dp_aggregator`": lambda: summed(tff.learning.dp_aggregator(0.1, 1000)),
    "`build_weighted_fed_avg`": lambda: algorithms.build_weighted_fed_avg(c.regression, SGD).next,
    "`build_unweighted_fed_avg`": lambda: algorithms.build_unweighted_fed_avg(c.regression, SGD).next,
    "`build_fed_sgd`": lambda: algorithms.build_fed_sgd(c.regression).next,
    "`build_fed_eval`": lambda: algorithms.build_fed_eval(c.regression).next,
    "`build_weighted_mime_lite`": lambda: algorithms.build_weighted_mime_lite(c.regression, SGD).next,
    "`build_fed_kmeans`": lambda: algorithms.build_fed_kmeans(2, (3,)).next,
}
"""TFF's aggregates that are recognised."""

IN_PLAINTEXT = {
    "hierarchical histograms": histogram,
    "`federated_secure_sum`": lambda: of(lambda x: tff.federated_secure_sum(x, 9), tff.FederatedType(N, tff.CLIENTS)),
    "`federated_secure_sum_bitwidth`": lambda: of(
        lambda x: tff.federated_secure_sum_bitwidth(x, 9), tff.FederatedType(N, tff.CLIENTS)
    ),
    "`SecureSumFactory`": lambda: summed(aggregators.SecureSumFactory(6, -5), tff.TensorType(N, [3])),
    "`SecureModularSumFactory`": lambda: summed(aggregators.SecureModularSumFactory(8), tff.TensorType(N, [3])),
    "`secure_quantized_sum`": lambda: of(
        aggregators.secure_quantized_sum,
        tff.FederatedType(VECTOR, tff.CLIENTS),
        tff.FederatedType(F, tff.SERVER),
        tff.FederatedType(F, tff.SERVER),
    ),
    "`secure_aggregator`": lambda: averaged(tff.learning.secure_aggregator()),
    "`DistributedDpSumFactory`": lambda: summed(
        distributed_dp.DistributedDpSumFactory(
            noise_multiplier=0.0, expected_clients_per_round=5, bits=20, l2_clip=15.0
        )
    ),
    "`ddp_secure_aggregator`": lambda: summed(tff.learning.ddp_secure_aggregator(0.0, 3)),
    "heavy hitters by `iblt`": lambda: tff.analytics.heavy_hitters.iblt.build_iblt_computation(capacity=20),
}
"""TFF's aggregates that are recognised with ``secure_sum="plaintext"``."""

REFUSED = {
    "`EncodedSumFactory`": (
        lambda: summed(aggregators.EncodedSumFactory.quantize_above_threshold(4, threshold=2)),
        "more than one floating-point number",
    ),
    "`compression_aggregator`": (
        lambda: averaged(tff.learning.compression_aggregator(), tff.TensorType(F, [20001])),
        "more than one floating-point number",
    ),
    "an aggregate that appends each client's value": (appended, "joins values"),
    "`UnweightedReservoirSamplingFactory`": (
        lambda: summed(aggregators.UnweightedReservoirSamplingFactory(sample_size=3)),
        "of type <random_seed=int64\\[2\\],random_values=int32\\[\\?\\],samples=float32\\[\\?,3\\]>: its accumulate",
    ),
    "`federated_sample`": (
        lambda: of(lambda x: aggregators.federated_sample(x, 3), NUMBERS),
        "joins values|computes with",
    ),
    "`build_personalization_eval_computation`": (personalized, "joins values|computes with|its accumulate"),
    "metrics by `finalize_then_sample`": (sampled_metrics, "joins values|computes with|its accumulate"),
    "a histogram of distinct strings": (histogram_of_words, "its accumulate"),
}
"""TFF's aggregates that are refused, and a part of the hint."""


@pytest.mark.parametrize("row", [*PASSES, *IN_PLAINTEXT])
def test_aggregate_is_recognised(row):
    secure_sum = "refuse" if row in PASSES else "plaintext"
    labels = labels_of_plan((PASSES | IN_PLAINTEXT)[row](), secure_sum)
    assert labels
    check_labels(POLICY, labels)


@pytest.mark.parametrize("row", REFUSED)
def test_aggregate_with_values_of_single_clients_is_refused(row):
    made, why = REFUSED[row]
    labels = labels_of_plan(made())
    with pytest.raises(PolicyRefused, match=why) as caught:
        check_labels(POLICY, labels)
    assert caught.value.rule == "aggregates"


def test_page_lists_recognised_and_refused_aggregates():
    page = PAGE.read_text()
    start = page.index("These aggregates of TFF's pass:")
    parts = page[start : page.index("## A source of your own")].split("These ")
    for part, rows in zip(parts[1:], (PASSES, IN_PLAINTEXT, REFUSED), strict=True):
        listed = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| ")]
        assert listed == ["aggregate", *rows]
