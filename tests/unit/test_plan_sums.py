"""Merges that add are recognised, and no others: the C++ runtime computes those."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.plan import make_plan

VECTOR = tff.TensorType(np.float32, [3])


def adds(merge, type_=VECTOR, zero=lambda: tf.zeros([3])):
    """Return whether the fold of an aggregate with this merge adds."""
    merging = tff.tensorflow.computation(merge, type_, type_)
    start = tff.tensorflow.computation(zero)
    report = tff.tensorflow.computation(lambda whole: whole, type_)

    @tff.federated_computation(tff.FederatedType(type_, tff.CLIENTS))
    def aggregate(values):
        return tff.federated_aggregate(values, start(), merging, merging, report)

    return folds(aggregate) == [True]


def folds(computation):
    return [stage.fold.adds for stage in make_plan(computation).stages if getattr(stage, "fold", None)]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("shape", [[], [3], [2, 0, 5]])
def test_sums_of_every_dtype_and_shape_add(dtype, shape):
    type_ = tff.TensorType(dtype, shape)
    assert adds(lambda left, right: left + right, type_, lambda: tf.zeros(shape, dtype))
    assert adds(lambda left, right: tf.add_n([left, right]), type_, lambda: tf.zeros(shape, dtype))
    assert adds(lambda left, right: right + left, type_, lambda: tf.zeros(shape, dtype))


LOOKALIKES = {
    "subtracts": lambda left, right: left - right,
    "multiplies": lambda left, right: left * right,
    "scales": lambda left, right: left + 2 * right,
    "averages": lambda left, right: (left + right) / 2,
    "adds one more": lambda left, right: left + right + 1,
    "adds twice": lambda left, right: left + right + right,
    "adds one side to itself": lambda left, right: left + left,
    "keeps one side": lambda left, right: left,
    "takes the larger": lambda left, right: tf.maximum(left, right),
    "adds in another dtype": lambda left, right: tf.cast(
        tf.cast(left, tf.float64) + tf.cast(right, tf.float64), tf.float32
    ),
    "adds rounded": lambda left, right: tf.round(left) + right,
    "adds turned around": lambda left, right: left + tf.reverse(right, [0]),
    "adds the first to all": lambda left, right: left + right[0],
    "adds where finite": lambda left, right: tf.where(tf.math.is_finite(right), left + right, left),
    "adds and clips": lambda left, right: tf.clip_by_value(left + right, -1e6, 1e6),
    "adds with a check": lambda left, right: tf.debugging.check_numerics(left + right, "not finite"),
    "adds noise": lambda left, right: left + right + tf.random.normal([3]),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_looks_like_a_sum_does_not_add(name):
    assert not adds(LOOKALIKES[name])


def test_sum_in_a_wider_integer_does_not_add():
    wide = lambda left, right: tf.cast(tf.cast(left, tf.int64) + tf.cast(right, tf.int64), tf.int32)  # noqa: E731
    assert not adds(wide, tff.TensorType(np.int32, [3]), lambda: tf.zeros([3], tf.int32))


def test_sum_of_float16_does_not_add():
    """NaN has another sign in NumPy's result."""
    type_ = tff.TensorType(np.float16, [3])
    assert not adds(lambda left, right: left + right, type_, lambda: tf.zeros([3], tf.float16))


@pytest.mark.parametrize("shape", [[None], [None, 2]])
def test_tensors_of_unknown_shape_do_not_add(shape):
    """They could be broadcast: a sum of shapes [1] and [3] has the shape [3]."""
    zero = lambda: tf.zeros([0 if size is None else size for size in shape])  # noqa: E731
    assert not adds(lambda left, right: left + right, tff.TensorType(np.float32, shape), zero)


def test_structs_add_if_all_their_tensors_do():
    type_ = tff.to_type(collections.OrderedDict(total=VECTOR, count=np.int32))

    def zero():
        return collections.OrderedDict(total=tf.zeros([3]), count=0)

    def both(left, right):
        return collections.OrderedDict(total=left["total"] + right["total"], count=left["count"] + right["count"])

    def crossed(left, right):
        return collections.OrderedDict(total=left["total"] + left["total"], count=left["count"] + right["count"])

    assert adds(both, type_, zero)
    assert not adds(crossed, type_, zero)


def test_sums_and_means_of_tff_add_and_its_other_aggregates_do_not():
    clients = tff.FederatedType(VECTOR, tff.CLIENTS)
    weights = tff.FederatedType(np.float32, tff.CLIENTS)
    sums = tff.federated_computation(
        lambda value, weight: (tff.federated_sum(value), tff.federated_mean(value, weight)), clients, weights
    )
    assert folds(sums) == [True]
    assert folds(tff.federated_computation(tff.federated_max, clients)) == [False]
    mixed = tff.federated_computation(lambda value: (tff.federated_sum(value), tff.federated_min(value)), clients)
    assert folds(mixed) == [False]
