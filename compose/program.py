"""The mean departure delay over the cohort's flights. The broker's URL is in the file that FEDBROKER_URL_FILE names."""

from __future__ import annotations

import os
import sys

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker

DELAYS = tff.FederatedType(tff.TensorType(np.float32, [None]), tff.CLIENTS)


@tff.federated_computation(DELAYS)
def mean_delay(delays: object) -> object:
    """Each silo's mean, weighted by its number of flights."""
    mean = tff.tensorflow.computation(lambda minutes: tf.reduce_mean(minutes), DELAYS.member)
    flights = tff.tensorflow.computation(lambda minutes: tf.cast(tf.size(minutes), tf.float32), DELAYS.member)
    return tff.federated_mean(tff.federated_map(mean, delays), tff.federated_map(flights, delays))


def main() -> None:
    """Compute and print the mean over the cohort."""
    # Where a container's filter of system calls refuses namespaces, FEDBROKER_ISOLATION is none.
    isolation = os.environ.get("FEDBROKER_ISOLATION", "namespace")
    with fedbroker.set_sync_execution_context(
        cohort="airports",
        min_silos=3,
        stragglers="drop",
        quorum=2,
        options=fedbroker.Options(isolation=isolation, journal="journal", metrics=os.environ.get("FEDBROKER_METRICS")),
    ):
        print(f"mean delay: {mean_delay(fedbroker.data('delays')):.2f} minutes", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # Ctrl-C, `docker stop`, `systemctl stop`; the context has said that it was cancelled
        sys.exit(130)
