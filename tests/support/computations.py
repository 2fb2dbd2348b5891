"""Computations shared by tests."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from tests.support.local_tff import pack_arguments

AT_CLIENTS = tff.FederatedType(np.float32, tff.CLIENTS)
AT_SERVER = tff.FederatedType(np.float32, tff.SERVER)
BATCHES = collections.OrderedDict(x=tf.TensorSpec([None, 4], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))


COLUMN = tff.TensorType(np.float32, [None])


@tff.tensorflow.computation(COLUMN)
def add(column):
    """Sum the rows."""
    return tf.reduce_sum(column)


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def sum_of(columns):
    """Sum over all rows of all clients."""
    return tff.federated_sum(tff.federated_map(add, columns))


def sum_numbers(context):
    """Compute that sum over the silos' own data source ``numbers``."""
    return context.invoke(sum_of, pack_arguments(sum_of, (fedbroker.data("numbers"),)))


@tff.tensorflow.computation(np.float32)
def half(x):
    return x / 2


@tff.tensorflow.computation(np.float32, np.float32)
def minus(x, y):
    return x - y


@tff.tensorflow.computation(np.float32)
def positive(x):
    """Return a positive number; fail on any other."""
    with tf.control_dependencies([tf.debugging.Assert(x > 0, ["this one is negative"])]):
        return tf.identity(x)


@tff.tensorflow.computation(np.float32)
def endless(x):
    """Compute without an end."""
    return tf.while_loop(lambda total: total < np.inf, lambda total: total * 1.0, [x])[0]


@tff.federated_computation(AT_CLIENTS)
def endless_sum(x):
    return tff.federated_sum(tff.federated_map(endless, x))


@tff.federated_computation(AT_CLIENTS)
def total(x):
    return tff.federated_sum(x)


@tff.federated_computation(AT_CLIENTS, AT_SERVER)
def two_barriers(x, s):
    """Average, broadcast the mean, and aggregate again, with client values that are kept between the two stages."""
    mean = tff.federated_mean(tff.federated_map(half, x))
    off = tff.federated_map(minus, (x, tff.federated_broadcast(mean)))
    return mean, tff.federated_max(x), tff.federated_min(x), tff.federated_broadcast(s), tff.federated_sum(off), off


@tff.federated_computation(AT_SERVER)
def server_only(x):
    return tff.federated_map(half, x), tff.federated_value(np.float32(3), tff.SERVER)


def regression():
    """Return a linear model with four inputs."""
    layers = [tf.keras.layers.InputLayer(input_shape=(4,)), tf.keras.layers.Dense(1, kernel_initializer="ones")]
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential(layers),
        input_spec=BATCHES,
        loss=tf.keras.losses.MeanSquaredError(),
        metrics=[tf.keras.metrics.MeanAbsoluteError()],
    )


def client_data(*sizes, seed=0):
    """Return a dataset of batches of four for each size."""
    rng = np.random.default_rng(seed)
    return [
        tf.data.Dataset.from_tensor_slices(
            collections.OrderedDict(
                x=rng.normal(size=(size, 4)).astype(np.float32), y=rng.normal(size=(size, 1)).astype(np.float32)
            )
        ).batch(4)
        for size in sizes
    ]
