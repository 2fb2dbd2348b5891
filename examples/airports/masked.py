"""Masked sums over the three airports: the coordinator learns totals and a model, and no airport's own numbers.

Run by `python -m examples.airports.masked`. Each silo's policy refuses every aggregate that would leave it without a
mask.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # suppresses TensorFlow's notes about this machine's processor

import fedbroker
from examples.airports import data
from fedbroker import console as command_line
from fedbroker.testing import local_cohort

POLICY = {**data.POLICY, "aggregates": "masked", "min_sum_silos": 3}
"""Each silo's policy, as in its silo.toml."""

ROUNDS = 3


def main() -> int:
    """Compute figures and train a model by masked sums. Return 0 only if they agree with central ones."""
    from examples.airports.computations import masked_delays, masked_learning

    logging.getLogger("tensorflow").setLevel(
        logging.CRITICAL
    )  # TFF's secure_aggregator has it report unused assertions
    with tempfile.TemporaryDirectory(prefix="airports-") as name:
        directory = Path(name)
        data.split(directory)
        silos = dict.fromkeys(data.AIRPORTS, data.SOURCES)
        with (
            local_cohort(silos, cohort="airports", directory=directory, policy=POLICY, security="seal") as cohort,
            fedbroker.set_sync_execution_context(cohort.url, cohort="airports", min_silos=3, keys=cohort.keys),
        ):
            print(fedbroker.explain(masked_delays, secure_sum="masked"))
            count, mean, late = (float(figure) for figure in masked_delays(fedbroker.data("delays")))
            print(f"{count:.0f} flights, mean delay {mean:.3f} minutes, {late:.1%} left more than 15 minutes late")
            agree = all(
                abs(ours - theirs) <= 1e-9 * abs(theirs)
                for ours, theirs in zip((count, mean, late), data.centrally(directory), strict=True)
            )
            process = masked_learning()
            state, losses = process.initialize(), list[float]()
            for number in range(1, ROUNDS + 1):
                output = process.next(state, fedbroker.data("arrivals", batch_size=256))
                state, train = output.state, output.metrics["client_work"]["train"]
                losses.append(float(train["loss"]))
                print(f"round {number}: loss {losses[-1]:.3f}, accuracy {float(train['accuracy']):.3f}")
    ok = agree and losses[-1] < losses[0]
    print(f"masked: {'ok' if ok else 'failed'}")
    return 0 if ok else 1


if __name__ == "__main__":
    command_line.run(main)
