"""``python -m tests.fuzz [--executions N] [--seed N] [--processes N] [TARGET …]``: fuzz, and print the results."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable

from tests.fuzz.running import Outcome, keep, run
from tests.fuzz.targets import TARGETS

SHARDS = 8
WIDTHS = "{:<10} {:>12} {:>8} {:>9} {:>9} {:>11} {:>9}"


def main() -> int:
    """Run the targets; return the number of targets that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads other people's bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all unless given")
    parser.add_argument("--executions", type=int, default=1_050_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2, help="side by side")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    names = asked.targets or list(TARGETS)
    shares = sum(TARGETS[name].share for name in names)
    work = [
        (name, -(-asked.executions * TARGETS[name].share // shares // SHARDS), asked.seed * SHARDS + shard)
        for shard, name in itertools.product(range(SHARDS), names)
    ]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        outcomes = pool.starmap(run, work, chunksize=1)
    _show(names, outcomes, time.monotonic() - began)
    failed = {one.target: one for one in outcomes if one.failure}
    for one in failed.values():
        print(f"\n{one.target}: {keep(one)}\n{one.failure}", file=sys.stderr)
    return len(failed)


def _show(names: Iterable[str], outcomes: list[Outcome], seconds: float) -> None:
    print(WIDTHS.format("target", "executions", "taken", "per s", "seconds", "slowest ms", "grown MiB"))
    for name in names:
        mine = [one for one in outcomes if one.target == name]
        _row(name, mine, sum(one.seconds for one in mine))
    _row("all", outcomes, seconds)


def _row(name: str, outcomes: list[Outcome], seconds: float) -> None:
    done = sum(one.executions for one in outcomes)
    taken = sum(one.taken for one in outcomes) / max(1, done)
    slowest, grown = max(one.slowest for one in outcomes), max(one.grown for one in outcomes)
    cells = (f"{done:,}", f"{taken:.0%}", f"{done / seconds:,.0f}", f"{seconds:.1f}", f"{slowest * 1000:.1f}")
    print(WIDTHS.format(name, *cells, f"{grown:.0f}"))


if __name__ == "__main__":
    sys.exit(main())
