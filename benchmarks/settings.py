"""The effect of the bulk connection's settings: a large blob to one silo with each of them changed, in turns.

    python -m benchmarks.settings [--mib SIZE] [--turns N]

The silo is a separate process, as in practice, on a private broker.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
from dataclasses import dataclass, field

from benchmarks.transport import COHORT, Bench, processes
from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport import CoordinatorTransport
from fedbroker.transport.blobs import bulk
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

MIB = 1 << 20
SILO = "silo0"


@dataclass(frozen=True, slots=True)
class Case:
    """One setting changed.

    Attributes:
        name: the change.
        limits: of the sender.
        window: chunks that it sends before the broker confirms the first.
    """

    name: str
    limits: Limits = field(default_factory=Limits)
    window: int = bulk.WINDOW


CASES = (
    Case(f"as it is: chunks of {DEFAULT_LIMITS.large_chunk // MIB} MiB, {bulk.WINDOW} of them ahead"),
    Case("chunks of 256 KiB", Limits(large_chunk=MIB // 4)),
    Case("chunks of 1 MiB", Limits(large_chunk=MIB)),
    Case("chunks of 8 MiB", Limits(large_chunk=8 * MIB)),
    Case("1 chunk ahead", window=1),
    Case("2 chunks ahead", window=2),
    Case("32 chunks ahead", window=32),
)


async def measure(url: str, mib: int, turns: int) -> dict[str, list[dict[str, float]]]:
    """Return each turn's figures by case; see :meth:`benchmarks.transport.Bench.blob`."""
    found: dict[str, list[dict[str, float]]] = {case.name: [] for case in CASES}
    async with contextlib.AsyncExitStack() as stack:
        benches = {}
        for case in CASES:
            end = CoordinatorTransport(
                url, COHORT, limits=case.limits, on_announce=lambda _: None, on_leave=lambda _: None
            )
            end._transfer._window = asyncio.Semaphore(case.window)
            await end.open(Deadline.after(20))
            stack.push_async_callback(end.close)
            benches[case.name] = Bench(end, [SILO])
            await benches[case.name].blob(mib)
        for _ in range(turns):
            for name, bench in benches.items():
                found[name].append(await bench.blob(mib))
    return found


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description="Effect of the settings of bulk connections.")
    arguments.add_argument("--mib", type=int, default=100)
    arguments.add_argument("--turns", type=int, default=5)
    given = arguments.parse_args()
    with PrivateBroker() as broker, processes(broker.url, 1, "bench.settings"):
        found = asyncio.run(measure(broker.url, given.mib, given.turns))
    print(f"| {given.mib} MiB to one silo | MiB/s | CPU-s per GiB, sender | reader |")
    print("|---|--:|--:|--:|")
    for name, turns in found.items():
        middle = {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        each = given.mib / 1024
        sender, reader = middle["cpu_sender"] / each, middle["cpu_receiver"] / each
        print(f"| {name} | {given.mib / middle['seconds']:.0f} | {sender:.2f} | {reader:.2f} |")


if __name__ == "__main__":
    main()
