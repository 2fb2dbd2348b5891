"""Every factory of ``tff.aggregators``, and the aggregators that ``tff.learning`` recommends."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from google.protobuf.message import DecodeError
from tensorflow_federated.python.aggregators import discretization, distributed_dp, modular_clipping

from tests.support.conformance import feature

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F, N = np.float32, np.int32
VECTOR = tff.TensorType(F, [3])
INTS = tff.TensorType(N, [3])
STRUCT = tff.to_type(collections.OrderedDict(a=VECTOR, b=F))

aggregators = tff.aggregators
PrivateFactory = aggregators.DifferentiallyPrivateFactory
Quantile = aggregators.PrivateQuantileEstimationProcess

# Sums of whole numbers do not depend on their order: some silos have two of these clients.
FIVE = [np.array(row, F) for row in ([1, 2, 3], [0, 0, 0], [-4, 5, 6], [7, -8, 9], [2, 2, 2])]
SUM = np.array([6, 1, 20], F)
FIVE_INTS = [row.astype(N) for row in FIVE]
FIVE_STRUCTS = [collections.OrderedDict(a=row, b=row[0]) for row in FIVE]
THREE = [np.array(row, F) for row in ([0.1, 0.2, 0.3], [-0.4, 0.5, 0.6], [0.7, -0.8, 0.9])]
WEIGHTS = [F(weight) for weight in (1, 2, 1, 0, 4)]


def summed(same, factory, values, type_=VECTOR, **options):
    """Run rounds of an unweighted aggregator; return the last output."""
    return same.rounds(factory.create(type_), [values], **options)


def averaged(same, factory, values, weights, type_=VECTOR, **options):
    """Run rounds of a weighted aggregator; return the last output."""
    return same.rounds(factory.create(type_, tff.TensorType(F)), [values, weights], **options)


def assert_alike(found, expected):
    """Assert equal containers, dtypes and shapes; values may differ."""
    tf.nest.assert_same_structure(found, expected, check_types=True)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        assert type(one) is type(other)
        assert (np.asarray(one).dtype, np.shape(one)) == (np.asarray(other).dtype, np.shape(other))


def seeded(same, factory, values, type_=VECTOR):
    """Run rounds of an aggregator that keeps a seed from the clock in its state; both sides start from our state."""
    process = factory.create(type_)
    state, other = same.run_ours(process.initialize), same.run_theirs(process.initialize)
    assert_alike(state, other)
    output = None
    for _ in range(2):
        output = same(process.next, state, values)
        state = output.state
    return output


def approximated(same, factory, values, expected, atol, type_=VECTOR):
    """Run a round of an aggregator that rounds at random; both results must be within ``atol`` of ``expected``."""
    process = factory.create(type_)
    state = same.run_ours(process.initialize)
    found, other = same.run_ours(process.next, state, values), same.run_theirs(process.next, state, values)
    assert_alike(found, other)
    for output in (found, other):
        np.testing.assert_allclose(output.result, expected, rtol=0, atol=atol)
    same.note = "both within the rounding of the sum"
    return found


@feature("aggregators", "SumFactory")
def test_sum(same):
    assert summed(same, aggregators.SumFactory(), FIVE_STRUCTS, STRUCT).result["a"].tolist() == SUM.tolist()


@feature("aggregators", "MeanFactory", "also of weights that are all zero")
def test_mean(same):
    process = aggregators.MeanFactory(no_nan_division=True).create(STRUCT, tff.TensorType(F))
    output = same.rounds(process, [FIVE_STRUCTS, WEIGHTS])
    assert output.result["b"] == F(5 / 8)
    assert same(process.next, output.state, FIVE_STRUCTS, [F(0)] * 5).result["b"] == 0


@feature("aggregators", "UnweightedMeanFactory")
def test_unweighted_mean(same):
    output = summed(same, aggregators.UnweightedMeanFactory(), FIVE_STRUCTS, STRUCT)
    np.testing.assert_array_equal(output.result["a"], SUM / F(5))


@feature("aggregators", "as_weighted_aggregator")
def test_as_weighted(same):
    averaged(same, aggregators.as_weighted_aggregator(aggregators.UnweightedMeanFactory()), FIVE, WEIGHTS)


@feature("aggregators", "concat_factory")
def test_concat(same):
    summed(same, aggregators.concat_factory(aggregators.SumFactory()), FIVE_STRUCTS, STRUCT)


@feature("aggregators", "add_measurements", "of the clients' values and of the result")
def test_measurements(same):
    length = tff.tensorflow.computation(lambda value: tf.norm(value), VECTOR)

    def of_clients(value, weight):
        return collections.OrderedDict(
            longest=tff.federated_max(tff.federated_map(length, value)), weight=tff.federated_sum(weight)
        )

    def of_result(result):
        return collections.OrderedDict(length=tff.federated_map(length, result))

    factory = aggregators.add_measurements(
        aggregators.MeanFactory(), client_measurement_fn=of_clients, server_measurement_fn=of_result
    )
    output = averaged(same, factory, FIVE, WEIGHTS)
    assert list(output.measurements) == ["mean_value", "mean_weight", "longest", "weight", "length"]
    assert output.measurements["weight"] == 8


@feature("aggregators", "PrivateQuantileEstimationProcess")
def test_quantile(same):
    process = Quantile.no_noise(initial_estimate=1.0, target_quantile=0.5, learning_rate=1.0, multiplier=2.0)
    state = same(process.initialize)
    for _ in range(2):
        state = same(process.next, state, [F(value) for value in (1, 2, 9, 9, 9)])
    assert same(process.report, state) > 2


@feature("aggregators", "clipping_factory")
def test_clipping(same):
    output = summed(same, aggregators.clipping_factory(0.7, aggregators.SumFactory()), THREE)
    assert output.measurements["clipped_count"] == 2


@feature("aggregators", "zeroing_factory")
def test_zeroing(same):
    output = summed(same, aggregators.zeroing_factory(5.5, aggregators.SumFactory()), FIVE)
    assert (output.result.tolist(), output.measurements["zeroed_count"]) == ([3, 4, 5], 2)


@feature("aggregators", "robust_aggregator", "adaptive clipping and zeroing, with debug measurements")
def test_robust(same):
    factory = tff.learning.robust_aggregator(debug_measurements_fn=tff.learning.add_debug_measurements)
    output = averaged(same, factory, THREE, WEIGHTS[:3])
    assert output.measurements["zeroing"]["clipping_norm"] != 1


@feature("aggregators", "EncodedSumFactory", "quantized without chance")
def test_encoded(same):
    factory = aggregators.EncodedSumFactory.quantize_above_threshold(quantization_bits=4, threshold=2, stochastic=False)
    output = summed(same, factory, THREE, rtol=1e-6)
    np.testing.assert_allclose(output.result, sum(THREE), atol=3 * 1.7 / 15)
    assert output.result.tolist() != sum(THREE).tolist()


@feature("aggregators", "compression_aggregator", "quantized at random")
def test_compression(same):
    factory = tff.learning.compression_aggregator(weighted=False, clipping=False, zeroing=False)
    values = [np.linspace(0, scale, 20001, dtype=F) for scale in (1, 2, 3)]
    step = 3 / 255
    approximated(same, factory, values, np.mean(values, axis=0), step, tff.TensorType(F, [20001]))


@feature("aggregators", "HadamardTransformFactory", "both from the same seed, which the state holds")
def test_hadamard(same):
    output = seeded(same, aggregators.HadamardTransformFactory(num_repeats=2), THREE)
    np.testing.assert_allclose(output.result, sum(THREE), rtol=1e-5)


@feature("aggregators", "DiscreteFourierTransformFactory", "both from the same seed, which the state holds")
def test_fourier(same):
    output = seeded(same, aggregators.DiscreteFourierTransformFactory(), THREE)
    np.testing.assert_allclose(output.result, sum(THREE), rtol=1e-5)


def rows(sample):
    return sorted(np.asarray(sample).tolist())


@feature("aggregators", "UnweightedReservoirSamplingFactory", "all clients in order, or some of them at random")
def test_reservoir(same):
    output = summed(same, aggregators.UnweightedReservoirSamplingFactory(sample_size=9), FIVE_STRUCTS, STRUCT)
    assert output.result["b"].tolist() == [1, 0, -4, 7, 2]
    process = aggregators.UnweightedReservoirSamplingFactory(sample_size=2, return_sampling_metadata=True).create(
        tff.TensorType(F)
    )
    outputs = [run(process.next, (), [row[0] for row in FIVE]) for run in (same.run_ours, same.run_theirs)]
    assert_alike(*outputs)
    for output in outputs:
        sample = rows(output.result["samples"])
        assert len(set(sample)) == 2
        assert set(sample) < {1, 0, -4, 7, 2}


@feature("aggregators", "federated_sample", "all clients or some of them, at random")
def test_sample(same):
    everything = tff.federated_computation(
        lambda x: aggregators.federated_sample(x, 9), tff.FederatedType(F, tff.CLIENTS)
    )
    some = tff.federated_computation(lambda x: aggregators.federated_sample(x, 2), tff.FederatedType(F, tff.CLIENTS))
    values = [row[0] for row in FIVE]
    for run in (same.run_ours, same.run_theirs):
        assert rows(run(everything, values)) == [-4, 0, 1, 2, 7]
        sample = rows(run(some, values))
        assert len(set(sample)) == 2
        assert set(sample) < {1, 0, -4, 7, 2}


@feature("aggregators", "DifferentiallyPrivateFactory.gaussian_fixed", "without noise")
def test_private_with_fixed_clip(same):
    output = summed(same, PrivateFactory.gaussian_fixed(0.0, 3, clip=0.8), THREE)
    assert output.result.shape == (3,)


@feature("aggregators", "DifferentiallyPrivateFactory.gaussian_adaptive", "without noise")
def test_private_with_adaptive_clip(same):
    summed(same, PrivateFactory.gaussian_adaptive(0.0, 3), THREE)


SPECS = tf.TensorSpec([3], tf.float32)


@feature("aggregators", "DifferentiallyPrivateFactory.tree_aggregation", "with noise, both from the same seed")
def test_private_by_tree(same):
    output = summed(same, PrivateFactory.tree_aggregation(1.0, 3, 9.0, SPECS, noise_seed=1), THREE)
    assert np.all(np.abs(output.result - sum(THREE) / 3) > 0.01)


@feature("aggregators", "DifferentiallyPrivateFactory.tree_adaptive", "with noise, both from the same seed")
def test_private_by_adaptive_tree(same):
    seeded(same, PrivateFactory.tree_adaptive(0.1, 3, SPECS, clipped_count_stddev=0.1, noise_seed=1), THREE)


@feature("aggregators", "Gaussian noise", "drawn separately by both; of the same size")
def test_noise(same):
    process = PrivateFactory.gaussian_fixed(1.0, 1, clip=1.0).create(tff.TensorType(F, [400]))
    values = [np.zeros(400, F)] * 3
    state = same(process.initialize)
    found, other = same.run_ours(process.next, state, values), same.run_theirs(process.next, state, values)
    assert_alike(found, other)
    assert np.any(found.result != other.result)
    for output in (found, other):
        assert 0.8 < np.std(output.result) < 1.2


@feature("aggregators", "dp_aggregator", "without noise")
def test_dp_aggregator(same):
    summed(same, tff.learning.dp_aggregator(0.0, 3), THREE)


@feature("aggregators", "DiscretizationFactory", "to the nearest, and at random")
def test_discretization(same):
    inner = aggregators.SumFactory()
    output = summed(same, discretization.DiscretizationFactory(inner, scale_factor=8.0), THREE)
    np.testing.assert_allclose(output.result, sum(THREE), atol=3 / 16)
    by_chance = discretization.DiscretizationFactory(inner, scale_factor=8.0, stochastic=True)
    summed(same, by_chance, FIVE)  # nothing to round
    approximated(same, by_chance, THREE, sum(THREE), 3 / 8)


@feature("aggregators", "ModularClippingSumFactory")
def test_modular_clipping(same):
    output = summed(same, modular_clipping.ModularClippingSumFactory(-4, 4), FIVE_INTS, INTS)
    assert output.result.tolist() == [-2, 1, -4]


@feature("aggregators", "SecureSumFactory", "with fixed and with adaptive bounds; masked, or in plaintext")
def test_secure_sum(same_secure):
    same = same_secure
    output = summed(same, aggregators.SecureSumFactory(6, -5), FIVE_INTS, INTS)
    assert output.result.tolist() == [5, 4, 17]
    assert output.measurements["secure_upper_clipped_count"] == 1
    bound = Quantile.no_noise(initial_estimate=1.0, target_quantile=0.9, learning_rate=1.0, secure_estimation=True)
    summed(same, aggregators.SecureSumFactory(bound), FIVE_STRUCTS, STRUCT)


@feature("aggregators", "SecureModularSumFactory", "masked, or in plaintext")
def test_secure_modular_sum(same_secure):
    output = summed(same_secure, aggregators.SecureModularSumFactory(8), FIVE_INTS, INTS)
    assert output.result.tolist() == [6, 1, 4]
    output = summed(same_secure, aggregators.SecureModularSumFactory(8, symmetric_range=True), FIVE_INTS, INTS)
    assert output.result.tolist() == [6, 1, 5]


@feature("aggregators", "secure_quantized_sum", "masked, or in plaintext")
def test_secure_quantized_sum(same_secure):
    @tff.federated_computation(
        tff.FederatedType(VECTOR, tff.CLIENTS), tff.FederatedType(F, tff.SERVER), tff.FederatedType(F, tff.SERVER)
    )
    def total(value, lower, upper):
        return aggregators.secure_quantized_sum(value, lower, upper)

    np.testing.assert_allclose(same_secure(total, FIVE, -8.0, 9.0), SUM, atol=1e-3)


@feature("aggregators", "secure_aggregator", "masked, or in plaintext")
def test_secure_aggregator(same_secure):
    small = [row / 2 for row in THREE]
    output = averaged(same_secure, tff.learning.secure_aggregator(), small, WEIGHTS[:3], rounds=1)
    np.testing.assert_allclose(output.result, (small[0] + 2 * small[1] + small[2]) / 4, atol=1e-5)


@feature("aggregators", "DistributedDpSumFactory", "without noise; masked, or in plaintext")
def test_distributed_dp(same_secure):
    same_secure.random = True
    factory = distributed_dp.DistributedDpSumFactory(
        noise_multiplier=0.0, expected_clients_per_round=5, bits=20, l2_clip=15.0
    )
    approximated(same_secure, factory, FIVE, SUM, 0.1)


@feature("aggregators", "ddp_secure_aggregator", "without noise; masked, or in plaintext")
def test_ddp_secure_aggregator(same_secure):
    same = same_secure
    same.random = True
    process = tff.learning.ddp_secure_aggregator(0.0, 3).create(VECTOR)
    small = [row / 20 for row in THREE]
    state = same.run_ours(process.initialize)
    assert_alike(state, same.run_theirs(process.initialize))
    output = same.run_ours(process.next, state, small)
    np.testing.assert_allclose(output.result, sum(small) / 3, rtol=0, atol=1e-4)
    with pytest.raises(DecodeError):  # nested deeper than protobuf's parser goes
        same.run_theirs(process.next, state, small)
    same.note = "TFF's own context fails"
