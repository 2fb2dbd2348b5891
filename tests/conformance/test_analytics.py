"""``tff.analytics``: heavy hitters, hierarchical histograms, counts of distinct items, and its helpers."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.analytics.hierarchical_histogram import hierarchical_histogram_lib as histograms

from tests.support.conformance import feature
from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F, L = np.float32, np.int64
iblt = tff.analytics.heavy_hitters.iblt
processing = tff.analytics.data_processing

TEXTS = ("to be or not to be", "that is the question", "", "to take to arms", "to be to sleep to dream to be")
WORDS = [tf.data.Dataset.from_tensor_slices(tf.constant(text.split(), tf.string)) for text in TEXTS]
BATCHED = [dataset.batch(1) for dataset in WORDS]
COUNTS = collections.Counter(word.encode() for text in TEXTS for word in text.split())
CLIENTS = collections.Counter(word.encode() for text in TEXTS for word in set(text.split()))
BATCHES = tff.SequenceType(tff.TensorType(np.str_, [None]))


def timed(same, comp, *args):
    """Run on the cohort and locally; compare everything but the output's time."""
    found, expected = same.run_ours(comp, *args), same.run_theirs(comp, *args)
    assert_same_untimed(found, expected)
    return found


def assert_same_untimed(found, expected, strings="heavy_hitters"):
    """Assert equality except for the time and the order of strings, which a sketch decodes in any order."""
    assert type(found) is type(expected)
    decoded = hasattr(expected, strings)
    order, other_order = (np.argsort(getattr(one, strings)) if decoded else None for one in (found, expected))
    for name in (attribute.name for attribute in found.__attrs_attrs__):
        one, other = getattr(found, name), getattr(expected, name)
        if name == "round_timestamp":
            assert (one.dtype, 0 <= other - one < 120) == (L, True)
        elif decoded and np.ndim(other):
            assert_same(one[order], other[other_order])
        else:
            assert_same(one, other)


def counted(strings, counts):
    return dict(zip(np.asarray(strings).tolist(), np.ravel(counts).tolist(), strict=True))


@feature("analytics", "heavy_hitters.iblt.build_iblt_computation")
def test_iblt(same):
    found = timed(same, iblt.build_iblt_computation(capacity=20), BATCHED)
    assert (found.clients, found.num_not_decoded) == (5, 0)
    assert counted(found.heavy_hitters, found.heavy_hitters_counts) == COUNTS
    assert counted(found.heavy_hitters, found.heavy_hitters_unique_counts) == CLIENTS


@feature("analytics", "build_iblt_computation with limits", "by secure sums, masked, or in plaintext")
def test_iblt_with_limits(same_secure):
    same_secure.random = True
    comp = iblt.build_iblt_computation(
        capacity=20,
        string_max_bytes=3,
        max_words_per_user=2,
        multi_contribution=False,
        k_anonymity=2,
        max_heavy_hitters=1,
        string_postprocessor=tf.strings.upper,
        secure_sum_bitwidth=20,
    )
    found = timed(same_secure, comp, BATCHED)
    assert counted(found.heavy_hitters, found.heavy_hitters_unique_counts) == {b"TO": 3}


@feature("analytics", "IbltFactory, ClippingIbltFactory", "vectors of counts; by secure sums, masked, or in plaintext")
def test_iblt_factories(same_secure):
    same_secure.random = True
    inner = tff.analytics.IbltFactory(
        capacity=20,
        string_max_bytes=10,
        repetitions=3,
        sketch_agg_factory=tff.aggregators.SecureSumFactory(2**32 - 1),
        value_tensor_agg_factory=tff.aggregators.SecureSumFactory(2**20),
    )
    process = iblt.ClippingIbltFactory(inner, unique_counts=True).create(BATCHES)
    state = same_secure(process.initialize)
    output, expected = (run(process.next, state, BATCHED) for run in (same_secure.run_ours, same_secure.run_theirs))
    assert_same(output.state, expected.state)
    assert_same(output.measurements, expected.measurements)
    assert_same_untimed(output.result, expected.result, "output_strings")
    values = dict(zip(output.result.output_strings, output.result.string_values.tolist(), strict=True))
    assert values == {word: [count, CLIENTS[word]] for word, count in COUNTS.items()}


NUMBERS = [tf.data.Dataset.from_tensor_slices(np.array(row, F)) for row in ([0.5, 1, 7.9], [2, 2, 2], [], [-1, 8], [3])]
LEAVES = [1, 1, 3, 1, 0, 0, 0, 1]


def histogram(found):
    ragged = found.aggregated_hierarchical_histogram
    return tf.RaggedTensor.from_nested_row_splits(ragged["flat_values"], ragged["nested_row_splits"])


def histogram_of(same, **options):
    return timed(same, histograms.build_hierarchical_histogram_computation(0.0, 8.0, 8, **options), NUMBERS)


@feature("analytics", "hierarchical histogram of distinct records", "four branches")
def test_histogram_of_distinct(same):
    found = histogram_of(same, clip_mechanism="distinct", arity=4, enable_secure_sum=False)
    assert histogram(found)[-1].numpy()[:8].tolist() == [min(count, 1) for count in LEAVES]


@feature(
    "analytics", "hierarchical histogram, central Gaussian", "without noise; by secure sums, masked, or in plaintext"
)
def test_central_histogram(same_secure):
    same_secure.random = True
    found = histogram_of(same_secure, dp_mechanism="central-gaussian")
    np.testing.assert_allclose(histogram(found)[-1], LEAVES, atol=1e-4)


@feature("analytics", "hierarchical histogram, distributed discrete Gaussian", "minimum noise; masked, or in plaintext")
def test_distributed_histogram(same_secure):
    same_secure.random = True
    # Without any, TensorFlow's graph optimizer ends the process, in TFF's own compiler.
    comp = histograms.build_hierarchical_histogram_computation(
        0.0, 8.0, 8, dp_mechanism="distributed-discrete-gaussian", noise_multiplier=1e-6, max_records_per_user=1000
    )
    data = [tf.data.Dataset.from_tensor_slices(np.repeat(np.arange(8, dtype=F), 20 * n)) for n in range(5)]
    for run in (same_secure.run_ours, same_secure.run_theirs):
        found = histogram(run(comp, data))
        for layer, nodes in enumerate((1, 2, 4, 8)):
            np.testing.assert_allclose(found[layer].numpy(), [1600 // nodes] * nodes, rtol=0, atol=15)


@feature("analytics", "build_hierarchical_histogram_process", "without noise")
def test_histogram_process(same):
    process = tff.analytics.build_hierarchical_histogram_process(0.0, 8.0, 8, enable_secure_sum=False)
    state = same(process.initialize)
    for _ in range(2):
        (found, metrics), (expected, other) = (
            run(process.next, state, NUMBERS) for run in (same.run_ours, same.run_theirs)
        )
        assert_same_untimed(found, expected)
        assert_same(metrics, other)
        state = found
    assert histogram(state)[-1].numpy().tolist() == LEAVES
    assert tff.analytics.HierarchicalHistogramDecoder(histogram(state), 0.0, 8.0).range_query(2, 4) == 4


@feature("analytics", "count_distinct.create_federated_hyperloglog_computation")
def test_hyperloglog(same):
    found = same(tff.analytics.count_distinct.create_federated_hyperloglog_computation(), WORDS)
    assert 5 < found < 60  # exactly 14, estimated from a sketch of 32 buckets


@feature("analytics", "hyperloglog by secure sums", "masked, or in plaintext")
def test_secure_hyperloglog(same_secure):
    comp = tff.analytics.count_distinct.create_federated_hyperloglog_computation(use_secagg=True)
    assert 5 < same_secure(comp, WORDS) < 60


@feature("analytics", "count_distinct.build_federated_secure_max_computation", "masked, or in plaintext")
def test_secure_max(same_secure):
    rng = np.random.default_rng(0)
    sketches = [rng.integers(0, 28, 32) for _ in range(5)]
    found = same_secure(tff.analytics.count_distinct.build_federated_secure_max_computation(), sketches)
    assert found.tolist() == np.max(sketches, axis=0).tolist()


@feature("analytics", "data_processing", "capped, unique and most frequent elements, with counts")
def test_data_processing(same):
    @tff.tensorflow.computation(BATCHES)
    def processed(dataset):
        return collections.OrderedDict(
            all=processing.get_all_elements(dataset, 4),
            capped=processing.get_capped_elements(dataset, 3),
            capped_counts=processing.get_capped_elements_with_counts(dataset, 3, batch_size=1),
            unique=processing.get_unique_elements(dataset),
            unique_counts=processing.get_unique_elements_with_counts(dataset),
            top=processing.get_top_elements(dataset, 2),
            top_counts=processing.get_top_elements_with_counts(dataset, 2),
            top_multi=processing.get_top_multi_elements(dataset, 2),
        )

    comp = tff.federated_computation(lambda x: tff.federated_map(processed, x), tff.FederatedType(BATCHES, tff.CLIENTS))
    found = same(comp, BATCHED)
    assert found[0]["unique"].tolist() == [b"to", b"be", b"or", b"not"]
    assert sorted(found[0]["top_multi"].tolist()) == [b"be", b"be", b"to", b"to"]
    assert found[2]["all"].tolist() == []


@feature("analytics", "data_processing.to_stacked_tensor, histogram_processing.threshold_histogram")
def test_helpers(same):
    stack = tff.tensorflow.computation(
        lambda dataset: tf.reduce_sum(processing.to_stacked_tensor(dataset)), tff.SequenceType(F)
    )
    threshold = tff.tensorflow.computation(
        lambda total: tff.analytics.histogram_processing.threshold_histogram(
            tf.constant(["low", "high"]), tf.stack([total / 2, total]), 20.0
        ),
        F,
    )

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(F), tff.CLIENTS))
    def kept(x):
        return tff.federated_map(threshold, tff.federated_sum(tff.federated_map(stack, x)))

    strings, values = same(kept, NUMBERS, rtol=1e-6)
    assert strings.tolist() == [b"high"]
    np.testing.assert_allclose(values, [25.4], rtol=1e-6)
