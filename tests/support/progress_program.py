"""A user's program for tests of the progress display: ``python FILE URL COHORT PIPE``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time

import numpy as np
import tensorflow_federated as tff

import fedbroker
from tests.support.computations import half, minus
from tests.support.local_tff import pack_arguments

AT_CLIENTS = tff.FederatedType(np.float32, tff.CLIENTS)


def two_stages(name: str) -> tff.Computation:
    """Return a computation of the sum of differences from the mean, which is 0, with this name."""

    def differences(x):
        mean = tff.federated_broadcast(tff.federated_mean(x))
        return tff.federated_sum(tff.federated_map(minus, (x, mean)))

    differences.__name__ = name
    return tff.federated_computation(differences, AT_CLIENTS)


def one_stage(name: str) -> tff.Computation:
    """Return a computation of the sum of the halves, with this name."""

    def halves(x):
        return tff.federated_sum(tff.federated_map(half, x))

    halves.__name__ = name
    return tff.federated_computation(halves, AT_CLIENTS)


def run(context, comp):
    return context.invoke(comp, pack_arguments(comp, ([1.0, 3.0],)))


def context_of(kind: str, url: str, cohort: str, **options: object):
    make = getattr(fedbroker, f"create_{kind}_execution_context")
    return make(url, cohort=cohort, min_silos=2, **options)


def piped(url: str, cohort: str) -> None:
    """Run with standard error as a pipe: by default, with each setting, full, broken and closed."""
    for progress, name in ((None, "lines"), (False, "silent"), (True, "forced")):
        with context_of("sync", url, cohort, progress=progress) as context:
            print(run(context, two_stages(name)), flush=True)
    with context_of("sync", url, cohort) as context:
        run(context, one_stage("warm"))
        with stuffed_stderr():
            started = time.monotonic()
            for _ in range(3):
                print(run(context, one_stage("stuffed")), flush=True)
            print(f"{time.monotonic() - started:.3f}", flush=True)


@contextlib.contextmanager
def stuffed_stderr():
    """Replace standard error by a full pipe without a reader; at the end, read the pending output."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    before, sys.stderr = sys.stderr, os.fdopen(writer, "w")
    try:
        yield
    finally:
        sys.stderr = before
        os.read(reader, 1 << 20)


async def on_a_terminal(url: str, cohort: str) -> None:
    """Run with standard error as a terminal: one invocation, two at once, and an interrupted one; a key starts each."""
    async with context_of("async", url, cohort) as context:
        for names in (["warm"], ["alone"], ["first", "second"], ["broken"]):
            await asyncio.to_thread(sys.stdin.readline)
            results = await asyncio.gather(*(run(context, one_stage(name)) for name in names))
            print(*results, flush=True)


if __name__ == "__main__":
    url, cohort, pipe = sys.argv[1:]
    terminal = os.dup(2)
    os.dup2(int(pipe), 2)
    piped(url, cohort)
    os.dup2(terminal, 2)
    asyncio.run(on_a_terminal(url, cohort))
