"""Runs targets over their corpus and what is made of it, and counts."""

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
"""What a process may grow by."""


@dataclass(frozen=True)
class Outcome:
    """Of one run.

    Attributes:
        executions: how many inputs were tried, and of those, taken: for something rather than noise.
        seconds: that it took.
        slowest: seconds of the slowest input.
        grown: MiB that the process has grown by.
        failure: what an input led to, or empty.
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
    """The committed inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def run(name: str, executions: int, seed: int) -> Outcome:
    """Try the corpus, and then what is made of it, until there were so many executions, or one has failed."""
    target, seeds = TARGETS[name], corpus(name)
    rng = random.Random(f"{name} {seed}")
    before, began = _peak(), time.monotonic()
    slowest, taken, failure, data, done = 0.0, 0, "", b"", 0
    for done in range(1, executions + 1):
        data = seeds[done - 1] if done <= len(seeds) else mutated(seeds, rng, target.mutations)
        start = time.thread_time()  # of the processor: others may have it for a while
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
    """Write what has failed into the corpus, where the tests find it."""
    path = CORPUS / outcome.target / f"failed-{hashlib.blake2b(outcome.culprit, digest_size=4).hexdigest()}"
    path.write_bytes(outcome.culprit)
    return path


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
