"""The demo's computations: ordinary TFF, independent of the broker."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

DELAYS = tff.FederatedType(tff.StructType([("dep_delay", tff.TensorType(np.float32, [None]))]), tff.CLIENTS)


@tff.tensorflow.computation(DELAYS.member)
def totals_of(flights):
    """Compute one airport's totals. Minutes are whole numbers, so that their sums are exact."""
    delay = tf.cast(flights["dep_delay"], tf.float64)
    return collections.OrderedDict(
        flights=tf.size(delay, out_type=tf.int64),
        minutes=tf.reduce_sum(delay),
        delayed=tf.reduce_sum(tf.cast(delay > 15, tf.int64)),
    )


@tff.tensorflow.computation(totals_of.type_signature.result)
def figures_of(totals):
    """Compute the count, the mean delay in minutes, and the share of flights that left more than 15 minutes late."""
    count = tf.cast(totals["flights"], tf.float64)
    return totals["flights"], totals["minutes"] / count, tf.cast(totals["delayed"], tf.float64) / count


@tff.federated_computation(DELAYS)
def delays(flights):
    """Compute the figures over all airports; each airport sends only its totals."""
    return tff.federated_map(figures_of, tff.federated_sum(tff.federated_map(totals_of, flights)))


LARGEST_TOTAL = 1 << 40
"""The bound on each total of one airport: far above a year's minutes."""


@tff.tensorflow.computation(DELAYS.member)
def whole_totals_of(flights):
    """Compute one airport's totals as integers, which can be masked. Minutes are whole numbers."""
    totals = totals_of(flights)
    return collections.OrderedDict(totals, minutes=tf.cast(totals["minutes"], tf.int64))


@tff.tensorflow.computation(whole_totals_of.type_signature.result)
def figures_of_whole(totals):
    """Compute the figures from whole totals."""
    return figures_of(collections.OrderedDict(totals, minutes=tf.cast(totals["minutes"], tf.float64)))


@tff.federated_computation(DELAYS)
def masked_delays(flights):
    """Compute the same figures by a secure sum: the coordinator learns the totals over all airports only."""
    totals = tff.federated_secure_sum(tff.federated_map(whole_totals_of, flights), LARGEST_TOTAL)
    return tff.federated_map(figures_of_whole, totals)


def late_arrival_model() -> tff.learning.models.VariableModel:
    """Return a logistic regression that predicts if a flight arrives more than 15 minutes late."""
    spec = collections.OrderedDict(x=tf.TensorSpec([None, 4], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential([tf.keras.layers.InputLayer(input_shape=(4,)), tf.keras.layers.Dense(1, "sigmoid")]),
        input_spec=spec,
        loss=tf.keras.losses.BinaryCrossentropy(),
        metrics=[tf.keras.metrics.BinaryAccuracy(name="accuracy")],
    )


def learning() -> tff.learning.templates.LearningProcess:
    """Return weighted federated averaging of the model."""
    return tff.learning.algorithms.build_weighted_fed_avg(
        late_arrival_model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.02),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    )


def masked_learning() -> tff.learning.templates.LearningProcess:
    """Return the same process with secure sums alone: model updates, weights and metrics."""
    return tff.learning.algorithms.build_weighted_fed_avg(
        late_arrival_model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.02),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
        model_aggregator=tff.learning.secure_aggregator(),
        metrics_aggregator=tff.learning.metrics.secure_sum_then_finalize,
    )
