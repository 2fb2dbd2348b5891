"""One small barrier, a sum of scalars, over 2 and 8 silos on this machine: the overhead of a round trip.

Beside it, the same computation on TFF's own local context in the same run. Prints a table; ``--json`` for machines.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow_federated as tff

import fedbroker
from fedbroker.testing import local_cohort

REPEATS = 60


@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def total(values: object) -> object:
    """The barrier."""
    return tff.federated_sum(values)


def milliseconds(call: Callable[[], object]) -> dict[str, float]:
    """Median and 90th percentile of a call, warmed up."""
    for _ in range(5):
        call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return {"median_ms": statistics.median(times), "p90_ms": sorted(times)[int(0.9 * len(times))]}


def main() -> None:
    """Measure and print."""
    stack = tff.framework.get_context_stack()
    results: dict[str, dict[str, float]] = {}
    for silos in (2, 8):
        values = [1.0] * silos
        with (
            local_cohort(silos, cohort="bench") as cohort,
            fedbroker.create_sync_execution_context(cohort.url, cohort="bench", min_silos=silos) as context,
        ):
            stack.set_default_context(context)
            results[f"{silos} silos"] = milliseconds(functools.partial(total, values))
    tff.backends.native.set_sync_local_cpp_execution_context()
    results["TFF's local context, 2 clients"] = milliseconds(lambda: total([1.0, 1.0]))
    if "--json" in sys.argv:
        print(json.dumps(results))
        return
    print(f"{'one barrier':34}{'median ms':>12}{'p90 ms':>12}")
    for name, row in results.items():
        print(f"{name:34}{row['median_ms']:12.1f}{row['p90_ms']:12.1f}")


if __name__ == "__main__":
    main()
