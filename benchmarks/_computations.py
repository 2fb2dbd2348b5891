"""The computations that are timed: ordinary TFF. Importing this module imports TensorFlow, which takes ten seconds."""

from __future__ import annotations

import signal

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


def local_context():
    """Return TFF's native context.

    It ends its worker with SIGINT and waits for its end without a limit, so the worker must not inherit an ignored
    SIGINT.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return tff.backends.native.create_sync_local_cpp_execution_context()


def invoke(context, computation, *arguments):
    """Call a computation in a context."""
    with tff.framework.get_context_stack().install(context):
        return computation(*arguments)


@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def total(values):
    """Return a sum of scalars: the smallest barrier."""
    return tff.federated_sum(values)


def averaging(numbers: int):
    """Return a round of averaging: each client gets the model and sends an update of that size; the server sums them.

    Args:
        numbers: float32 in the model.
    """
    model = tff.TensorType(np.float32, [numbers])

    @tff.tensorflow.computation(model, np.float32)
    def update(model, weight):
        return model * weight

    @tff.federated_computation(tff.FederatedType(model, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS))
    def averaged(model, weights):
        return tff.federated_sum(tff.federated_map(update, (tff.federated_broadcast(model), weights)))

    return averaged


def summing(numbers: int):
    """Return the server's part of that round: the sum of the clients' updates."""

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [numbers]), tff.CLIENTS))
    def summed(updates):
        return tff.federated_sum(updates)

    return summed


def updating(numbers: int):
    """Return a round in which each client's update is a vector of its own number, and the server sums them.

    Args:
        numbers: float32 in an update.
    """

    @tff.tensorflow.computation(np.float32)
    def update(number):
        return tf.fill([numbers], number)

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def updated(values):
        return tff.federated_sum(tff.federated_map(update, values))

    return updated


@tff.federated_computation(tff.FederatedType(np.float32, tff.SERVER))
def at_server(value):
    """Return the value: a computation that needs no silo."""
    return tff.federated_map(tff.tensorflow.computation(lambda x: x, np.float32), value)


def batches(seed):
    """Return a little data of one client for the airports' model: two batches."""
    random = np.random.default_rng(seed)
    shapes = {"x": (8, 4), "y": (8, 1)}
    return [{name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()} for _ in range(2)]


def secure_averaging(numbers: int):
    """Return ``averaging`` with TFF's secure aggregator, and the computation of the aggregator's first state.

    Args:
        numbers: float32 in the model.
    """
    model = tff.TensorType(np.float32, [numbers])
    aggregator = tff.learning.secure_aggregator(weighted=False).create(model)

    @tff.tensorflow.computation(model, np.float32)
    def update(model, weight):
        return model * weight

    @tff.federated_computation(
        aggregator.initialize.type_signature.result,
        tff.FederatedType(model, tff.SERVER),
        tff.FederatedType(np.float32, tff.CLIENTS),
    )
    def averaged(state, model, weights):
        updates = tff.federated_map(update, (tff.federated_broadcast(model), weights))
        found = aggregator.next(state, updates)
        return found.result, found.state

    return averaged, aggregator.initialize


CLIPPED = 8.0
"""Bound on the absolute value of an update, as of Flower's SecAgg+."""
QUANTIZED = (1 << 22) - 1
"""The largest quantized value of an update, as of Flower's SecAgg+."""


def quantized_averaging(numbers: int):
    """Return averaging of clipped updates of 22 bits by secure sums, as Flower's SecAgg+ does by default.

    Args:
        numbers: float32 in the model.
    """
    model = tff.TensorType(np.float32, [numbers])

    @tff.tensorflow.computation(model, np.float32)
    def update(model, weight):
        clipped = tf.clip_by_value(model * weight, -CLIPPED, CLIPPED)
        return tf.cast(tf.round((clipped + CLIPPED) * (QUANTIZED / (2 * CLIPPED))), tf.int32), 1

    @tff.tensorflow.computation(tff.TensorType(np.int32, [numbers]), np.int32)
    def mean(total, clients):
        return tf.cast(total, tf.float32) / tf.cast(clients, tf.float32) * (2 * CLIPPED / QUANTIZED) - CLIPPED

    @tff.federated_computation(tff.FederatedType(model, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS))
    def averaged(model, weights):
        updates = tff.federated_map(update, (tff.federated_broadcast(model), weights))
        return tff.federated_map(mean, tff.federated_secure_sum(updates, QUANTIZED))

    return averaged
