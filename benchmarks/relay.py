"""The cost of the relay into the runtime's namespace: the same transfers with and without it, in turns, in one run.

Run as ``python benchmarks/relay.py [--mib 100] [--repetitions 20] [--json]``. Two estimates of the cost are shown side
by side, and if they differ neither is reliable: of the best times of all turns, and of the two times of each turn
(median and quartiles). The relay's own processor time is the steadiest figure on a machine with other load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedbroker.runtime import Executor, Isolation, Runtime
from fedbroker.runtime.protos import array_pb2, data_type_pb2, executor_pb2
from fedbroker.runtime.values import frame

SMALL_CALLS = 200
WAYS = ("in", "out", "small call")


@dataclass
class Side:
    """One isolation: its runtime, and its measured times in seconds."""

    isolation: Isolation
    runtime: Runtime
    executor: Executor
    start: float
    times: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    relay: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def forget(self) -> None:
        for row in (*self.times.values(), *self.relay.values()):
            row.clear()

    @contextmanager
    def measured(self, way: str, calls: int = 1) -> Iterator[None]:
        relay, start = processor_seconds(self.runtime.pid), time.perf_counter()
        yield
        self.times[way].append((time.perf_counter() - start) / calls)
        self.relay[way].append((processor_seconds(self.runtime.pid) - relay) / calls)


def processor_seconds(host: int | None) -> float:
    """Return the processor time of the host process's child, the relay, over all its threads."""
    (relay,) = Path(f"/proc/{host}/task/{host}/children").read_text().split()
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{relay}/task").glob("*/schedstat")) / 1e9


def array(mib: float) -> bytes:
    """Return a serialized value of ``mib`` MiB of float32.

    The bytes are assembled by hand, since protobuf accepts numbers one by one only.
    """
    numbers = np.random.default_rng(0).random(int(mib * (1 << 18)), dtype="<f4")
    head = array_pb2.Array(dtype=data_type_pb2.DT_FLOAT, shape=array_pb2.ArrayShape(dim=[numbers.size]))
    packed = framed(array_pb2.Array.FloatList, "value", numbers.tobytes())
    return framed(
        executor_pb2.Value, "array", head.SerializeToString() + framed(array_pb2.Array, "float32_list", packed)
    )


def framed(message: Any, field: str, content: bytes) -> bytes:  # noqa: ANN401 - generated classes have no types
    """Return a serialized message with only that field."""
    return frame(message.DESCRIPTOR.fields_by_name[field].number, content) + content


async def once(side: Side, value: bytes) -> None:
    """Time the value in, the value out, and many small calls."""
    with side.measured("in"):
        ref = await side.executor.value(value)
    with side.measured("out"):
        answer = await side.executor.compute(ref)
    assert len(answer) == len(value), "the runtime returns what it was given"
    await side.executor.dispose([ref])
    with side.measured("small call", SMALL_CALLS):
        for _ in range(SMALL_CALLS):
            await side.executor.dispose([])


async def measure(mib: float, repetitions: int) -> dict[str, object]:
    """Return the table as a document; times in milliseconds."""
    value = array(mib)
    async with AsyncExitStack() as stack:
        sides: list[Side] = []
        isolations: tuple[Isolation, ...] = ("namespace", "none")
        for isolation in isolations:
            runtime = Runtime(isolation=isolation, log=lambda _line: None)
            stack.push_async_callback(runtime.close)
            start = time.perf_counter()
            await runtime.start()
            start = time.perf_counter() - start
            sides.append(Side(isolation, runtime, await runtime.executor(0), start))
        for turn in range(repetitions + 1):
            if turn == 1:  # the first turn was to warm up
                for side in sides:
                    side.forget()
            for side in sides if turn % 2 else sides[::-1]:
                await once(side, value)
    return report(mib, repetitions, *sides)


def report(mib: float, repetitions: int, relayed: Side, direct: Side) -> dict[str, object]:
    """Return both sides' times and the relay's cost, for each way."""
    ways = {
        way: {
            "namespace_best": min(relayed.times[way]) * 1e3,
            "none_best": min(direct.times[way]) * 1e3,
            "namespace_median": statistics.median(relayed.times[way]) * 1e3,
            "none_median": statistics.median(direct.times[way]) * 1e3,
            "cost_best": min(relayed.times[way]) / min(direct.times[way]) - 1,
            "cost_turns": turns(relayed.times[way], direct.times[way]),
            "relay_processor": statistics.median(relayed.relay[way]) * 1e3,
        }
        for way in WAYS
    }
    starts = {side.isolation: side.start * 1e3 for side in (relayed, direct)}
    return {"mib": mib, "repetitions": repetitions, "processors": os.cpu_count(), "start": starts, "ways": ways}


def turns(relayed: list[float], direct: list[float]) -> list[float]:
    """Return lower quartile, median and upper quartile of the cost in each turn."""
    return statistics.quantiles([with_it / without - 1 for with_it, without in zip(relayed, direct, strict=True)], n=4)


def table(document: dict[str, object]) -> str:
    """Format the document for people."""
    ways = document["ways"]
    assert isinstance(ways, dict)
    head = (
        f"{document['mib']:g} MiB, {document['repetitions']} times each in turns, {document['processors']} processors"
    )
    lines = [head, f"{'ms':12}{'namespace':>18}{'none':>18}{'cost':>36}{'relay':>12}"]
    lines.append(
        f"{'':12}{'best':>9}{'median':>9}{'best':>9}{'median':>9}{'of best':>9}{'by turn':>27}{'processor':>12}"
    )
    for way, row in ways.items():
        times = [row[f"{side}_{kind}"] for side in ("namespace", "none") for kind in ("best", "median")]
        lower, median, upper = row["cost_turns"]
        by_turn = f"{median:.1%} ({lower:.1%} to {upper:.1%})"
        cells = "".join(f"{time:9.2f}" for time in times)
        lines.append(f"{way:12}{cells}{row['cost_best']:9.1%}{by_turn:>27}{row['relay_processor']:12.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the relay into the runtime's namespace.")
    parser.add_argument("--mib", type=float, default=100.0)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    document = asyncio.run(measure(options.mib, options.repetitions))
    print(json.dumps(document) if options.json else table(document))


if __name__ == "__main__":
    main()
