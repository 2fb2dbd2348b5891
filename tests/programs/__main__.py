"""``python -m tests.programs [--count N] [--seed N] [--first N]``: run generated programs, print failing ones."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import time

from fedbroker.context.loop import LoopThread
from fedbroker.runtime import Runtime
from tests.support.direct_cohort import direct_run
from tests.support.masked_plans import masked_run
from tests.support.programs.generate import program_of_seed
from tests.support.programs.law import Failure, Law
from tests.support.programs.tff_process import TffProcess

PROGRESS = 50


def main() -> int:
    """Run the programs; return 1 if one failed, and 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.programs", description="Compare generated programs with TFF."
    )
    parser.add_argument("--count", type=int, default=1_000, help="how many programs")
    parser.add_argument("--seed", type=int, default=1, help="of the programs")
    parser.add_argument("--first", type=int, default=0, help="number of the first one: to continue a run")
    asked = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    loop, runtime, tff = LoopThread("programs"), Runtime(), TffProcess()
    law = Law(direct_run(loop, runtime), masked_run(loop, runtime), tff)
    failures: list[Failure] = []
    kinds: collections.Counter[str] = collections.Counter()
    number = asked.first
    began = time.monotonic()
    try:
        for number in range(asked.first, asked.first + asked.count):
            program = program_of_seed(asked.seed, number)
            kinds.update(step.kind for step in program.steps)
            failure = law.smallest_failure(program)
            if failure is not None:
                failures.append(failure)
                print(f"\nprogram {number} of seed {asked.seed}\n{failure}", flush=True)
            done = number + 1 - asked.first
            if done % PROGRESS == 0:
                _progress(done, asked.count, time.monotonic() - began, failures)
    except KeyboardInterrupt:
        rest = asked.first + asked.count - number
        print(f"to continue: make programs N={rest} SEED={asked.seed} FIRST={number}", file=sys.stderr)
        return 130
    finally:
        tff.close()
        loop.stop(runtime.close)
    _summary(asked.count, law, kinds, failures)
    return 1 if failures else 0


def _progress(done: int, count: int, seconds: float, failures: list[Failure]) -> None:
    print(f"{done:,} of {count:,} programs, {done / seconds:.1f} per s, {len(failures)} failed", flush=True)


def _summary(count: int, law: Law, kinds: collections.Counter[str], failures: list[Failure]) -> None:
    print(f"\n{count:,} programs, {law.compared_with_tff:,} of them compared with TFF's own context, too")
    for kind, times in kinds.most_common():
        print(f"  {kind:<32}{times:>8,}")
    sides = collections.Counter(failure.side for failure in failures)
    print(", ".join(f"{times} failed on {side}'s side" for side, times in sides.items()) or "no program failed")


if __name__ == "__main__":
    sys.exit(main())
