"""Runs targets over their corpus and its mutations, and counts the results."""

from __future__ import annotations

import hashlib
import random
import resource
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
LONGEST_SECONDS = 2.0
MOST_MIB = 256
"""Maximal growth of a process."""


@dataclass(frozen=True)
class Outcome:
    """Result of one run.

    Attributes:
        executions: number of inputs tried.
        taken: number of inputs that the target accepted as meaningful.
        seconds: duration of the run.
        slowest: seconds of the slowest input.
        grown: growth of the process in MiB.
        failure: the failure caused by an input, or empty.
        culprit: that input.
    """

    target: str
    executions: int
    taken: int
    seconds: float
    slowest: float
    grown: float
    failure: str = ""
    culprit: bytes = b""


def corpus(name: str) -> list[bytes]:
    """Return the committed inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def run(name: str, executions: int, seed: int) -> Outcome:
    """Try the corpus, then its mutations, until the number of executions is reached or an input fails."""
    target, seeds = TARGETS[name], corpus(name)
    rng = random.Random(f"{name} {seed}")
    before, began = _peak(), time.monotonic()
    slowest, taken, failure, data, done = 0.0, 0, "", b"", 0
    for done in range(1, executions + 1):
        data = seeds[done - 1] if done <= len(seeds) else mutated(seeds, rng, target.mutations)
        start = time.thread_time()  # processor time, since other processes may hold the processor
        try:
            taken += target.run(data)
        except Exception:
            failure = traceback.format_exc(limit=-4)
        took = time.thread_time() - start
        slowest = max(slowest, took)
        if took > LONGEST_SECONDS:
            failure = failure or f"it took {took:.1f} s"
        if done % 64 == 0 and _peak() - before > MOST_MIB:
            failure = failure or f"the process grew by {_peak() - before:.0f} MiB"
        if failure:
            break
    seconds = time.monotonic() - began
    return Outcome(name, done, taken, seconds, slowest, _peak() - before, failure, data if failure else b"")


def keep(outcome: Outcome) -> Path:
    """Write the failed input into the corpus, where the tests find it; return its path."""
    path = CORPUS / outcome.target / f"failed-{hashlib.blake2b(outcome.culprit, digest_size=4).hexdigest()}"
    path.write_bytes(outcome.culprit)
    return path


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
