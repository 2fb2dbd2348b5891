"""The computations that are timed: ordinary TFF. Importing this takes TensorFlow's ten seconds."""

from __future__ import annotations

import signal

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


def local_context():
    """TFF's native context.

    It ends its worker with SIGINT and waits for that without a limit, so the worker must not inherit an ignored one.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return tff.backends.native.create_sync_local_cpp_execution_context()


def invoke(context, computation, *arguments):
    """Call a computation in a context."""
    with tff.framework.get_context_stack().install(context):
        return computation(*arguments)


@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def total(values):
    """The smallest barrier: a sum of scalars."""
    return tff.federated_sum(values)


def averaging(numbers: int):
    """A round of averaging: the model goes to each client, an update of the same size comes back, the sum is the new.

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
    """What the server does in that round: the sum of the clients' updates."""

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [numbers]), tff.CLIENTS))
    def summed(updates):
        return tff.federated_sum(updates)

    return summed


def updating(numbers: int):
    """Each client's update is a vector of its own number; the server sums them.

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
    """What no silo is needed for."""
    return tff.federated_map(tff.tensorflow.computation(lambda x: x, np.float32), value)


def batches(seed):
    """A little data of one client for the airports' model: two batches."""
    random = np.random.default_rng(seed)
    shapes = {"x": (8, 4), "y": (8, 1)}
    return [{name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()} for _ in range(2)]
