"""The mean length of stay over the cohort's hospitals: ordinary TFF, and one line that names the cohort.

Run by `python program.py` with FEDBROKER_URL in its environment; by the demo; and on Kubernetes, see README.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # suppresses TensorFlow's notes about this machine's processor

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker

DAYS = tff.FederatedType(tff.TensorType(np.float32, [None]), tff.CLIENTS)


@tff.federated_computation(DAYS)
def mean_stay(days):
    """Compute the mean of the hospitals' means, weighted by their numbers of stays. Only these two numbers are sent."""
    mean = tff.tensorflow.computation(lambda own: tf.reduce_mean(tf.cast(own, tf.float64)), DAYS.member)
    stays = tff.tensorflow.computation(lambda own: tf.cast(tf.size(own), tf.float64), DAYS.member)
    return tff.federated_mean(tff.federated_map(mean, days), tff.federated_map(stays, days))


def main() -> None:
    """Compute and print the mean over the three hospitals."""
    # In a container the C++ runtime cannot have its own namespaces: FEDBROKER_ISOLATION is none there.
    isolation = os.environ.get("FEDBROKER_ISOLATION", "namespace")
    with fedbroker.set_sync_execution_context(
        cohort="hospitals", min_silos=3, options=fedbroker.Options(isolation=isolation)
    ):
        print(f"mean stay: {mean_stay(fedbroker.data('stays')):.3f} days", flush=True)


if __name__ == "__main__":
    main()
