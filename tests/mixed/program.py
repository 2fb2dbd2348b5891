"""``program.py URL COHORT``: compute the airports' figures and train their model; print every array's bits as JSON.

Run by its path, so that PYTHONPATH decides which version of fedbroker computes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tree

import fedbroker
from examples.airports.computations import delays, learning

ROUNDS = 2


def main(url: str, cohort: str) -> None:
    """Print dtype, shape and the digest of the bits of each array."""
    with fedbroker.set_sync_execution_context(url, cohort=cohort, min_silos=3):
        found: list[object] = [delays(fedbroker.data("delays"))]
        process = learning()
        state = process.initialize()
        # Keras draws the first weights at random.
        weights = tree.map_structure(np.zeros_like, process.get_model_weights(state))
        state = process.set_model_weights(state, weights)
        for _ in range(ROUNDS):
            output = process.next(state, fedbroker.data("arrivals", batch_size=256))
            state = output.state
            found += [output.metrics, state]
    arrays = [np.asarray(one) for one in tree.flatten(found)]
    digests = [(str(one.dtype), one.shape, hashlib.sha256(one.tobytes()).hexdigest()) for one in arrays]
    print(json.dumps({"from": fedbroker.__file__, "arrays": digests}))


if __name__ == "__main__":
    main(*sys.argv[1:])
