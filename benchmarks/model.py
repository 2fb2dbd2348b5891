"""A round of averaging: a model to every silo, an update of its size from each, their sum.

The lower bound is measured in turns with it: bare aio-pika that moves the same bytes in the same pattern, and the C++
runtime alone with both stages of the round; their sum bounds the round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

import fedbroker
from benchmarks._children import Child
from benchmarks._processes import GIB, MIB, Cost, Group, broker_pid, cost_of, typical
from benchmarks._report import Judged, Report, Row
from fedbroker.broker import PrivateBroker
from fedbroker.testing import local_cohort
from fedbroker.wire import DEFAULT_LIMITS

HEARTBEAT = 5.0
HELD = 28
"""Times the model's bytes that a silo and its counterpart hold at most, and the coordinator, too."""

COLUMNS = ("s", "bare s", "runtime s", "CPU-s per GiB", "bare, per GiB", "coordinator MiB", "silo MiB", "bare silo MiB")


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """The size of the model in bytes, and the number of silos that get it and send as much back."""

    bytes: int
    silos: int

    def __str__(self) -> str:
        return f"{self.bytes / MIB:g} MiB, {self.silos} silos"

    @property
    def fits(self) -> bool:
        """Return whether all processes of both sides fit into the free memory, extrapolated from smaller cases."""
        return (HELD * self.silos + HELD) * self.bytes <= psutil.virtual_memory().available

    @property
    def moved(self) -> float:
        """Return the GiB that all silos receive and send."""
        return 2 * self.bytes * self.silos / GIB


def run(quick: bool) -> Report:
    """Measure each size with each number of silos."""
    sizes, numbers = ((1, 16), (2,)) if quick else ((1, 16, 100), (2, 4, 8))
    rows, left_out = {}, []
    with PrivateBroker() as broker:
        for silos in numbers:
            with context_of(broker.url, silos) as (context, pids):
                for mib in sizes:
                    case = Case(mib * MIB, silos)
                    if not case.fits:
                        left_out.append(f"{case}: left out, since it takes more memory than the machine has.")
                        continue
                    rows[case] = row(case, broker.url, context, pids, turns=turns_of(mib))
    return Report(
        "model",
        "A round of averaging: a model of that size to each silo, an update of that size back",
        COLUMNS,
        [rows[case] for case in sorted(rows)],
        (
            "Judged: the round, compared with the sum of bare aio-pika and the C++ runtime alone. Processor time is "
            "that of coordinator, silos, their runtimes and the broker for each GiB that silos get or send. Memory is "
            "the peak, including the runtime's. The coordinator's starts with the 600 MiB of an imported TensorFlow.",
            *left_out,
        ),
    )


def turns_of(mib: int) -> int:
    """Return how often a size is measured: a small one is quick, and varies more."""
    return max(3, min(12, 100 // mib))


def row(case: Case, url: str, context: object, pids: Mapping[str, int], turns: int) -> Row:
    """Measure one case: the round, bare aio-pika and the runtime alone in turns, so that load affects all alike."""
    ours = round_of(context, case)
    with bare(url, case) as (moving, children), runtime_alone(case) as (computing, runtimes):
        for call in (ours, moving, computing):  # warm-up: makes the plans, sends the computations
            call()
        broker = Group([broker_pid()])
        apart = [*pids.values(), *children.values(), *runtimes, *supervisors()]
        all_ours = {"coordinator": Group([os.getpid()], apart), **groups(pids), "broker": broker}
        all_bare = {**groups(children), "broker": broker}
        costs: list[Cost] = []
        bare_costs: list[Cost] = []
        alone: list[float] = []
        for _ in range(turns):
            with cost_of(all_ours) as cost:
                ours()
            costs.append(cost)
            with cost_of(all_bare) as cost:
                seconds = moving()
            cost.seconds = seconds
            bare_costs.append(cost)
            alone.append(computing())
    mine, least, runtime = typical(costs), typical(bare_costs), statistics.median(alone)
    figures = (
        mine.seconds,
        least.seconds,
        runtime,
        mine.total / case.moved,
        least.total / case.moved,
        mine.peak["coordinator"] / MIB,
        mine.peak["silo-0"] / MIB,
        least.peak["silo-0"] / MIB,
    )
    judged = Judged(mine.seconds / (least.seconds + runtime), "≤", 1.5)
    return Row(str(case), dict(zip(COLUMNS, figures, strict=True)), judged)


def supervisors() -> list[int]:
    """Return the process ids of the broker's supervisor: neither the coordinator's nor the broker's own."""
    return [psutil.Process(broker_pid()).ppid()]


def groups(pids: Mapping[str, int]) -> dict[str, Group]:
    """Return each process with its runtime."""
    return {name: Group([pid]) for name, pid in pids.items()}


@contextlib.contextmanager
def context_of(url: str, silos: int) -> Iterator[tuple[object, dict[str, int]]]:
    """Yield a context over a cohort, and its silos' process ids."""
    name = f"model-{silos}"
    with (
        local_cohort(silos, cohort=name, broker=url, heartbeat=HEARTBEAT) as cohort,
        fedbroker.create_sync_execution_context(url, cohort=name, min_silos=silos, progress=False) as context,
    ):
        yield context, {silo: process.pid for silo, process in cohort.silos.items()}


def round_of(context: object, case: Case) -> Callable[[], None]:
    """Return one round with a model that no silo has seen; it checks the result."""
    import numpy as np

    from benchmarks._computations import averaging, invoke

    numbers = case.bytes // 4
    averaged = averaging(numbers)
    model = np.random.default_rng(0).random(numbers, dtype=np.float32)

    def once() -> None:
        model[0] += 1  # a different model, with a different digest: nothing is cached
        found = invoke(context, averaged, model, [1.0] * case.silos)
        if found.shape != (numbers,) or not np.allclose(found[:100], case.silos * model[:100]):
            raise RuntimeError("the round's result is wrong")

    return once


@contextlib.contextmanager
def bare(url: str, case: Case) -> Iterator[tuple[Callable[[], float], dict[str, int]]]:
    """Yield one round of the same bytes by bare aio-pika, which returns its seconds; and the process ids."""
    words = {
        "url": url,
        "name": f"bare.{case.bytes}.{case.silos}",
        "size": case.bytes,
        "chunk": DEFAULT_LIMITS.chunk_bytes(case.bytes),
    }
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(Child("benchmarks._bare", **words, silos=case.silos))
        silos = [stack.enter_context(Child("benchmarks._bare", **words)) for _ in range(case.silos)]
        for child in (coordinator, *silos):
            child.hear()
        pids = {"coordinator": coordinator.pid} | {f"silo-{n}": child.pid for n, child in enumerate(silos)}
        yield lambda: coordinator.ask(go=True)["seconds"], pids


@contextlib.contextmanager
def runtime_alone(case: Case) -> Iterator[tuple[Callable[[], float], list[int]]]:
    """Yield a call and the process ids; it returns the runtime's seconds: all silos at once, then the coordinator."""
    from benchmarks._values import stages

    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="model-")))
        at_silo, at_server = stages(case.bytes // 4, case.silos, directory)
        silos = [stack.enter_context(Child("benchmarks._runtime", **at_silo)) for _ in range(case.silos)]
        server = stack.enter_context(Child("benchmarks._runtime", **at_server))
        for child in (*silos, server):
            child.hear()

        def once() -> float:
            for silo in silos:
                silo.tell(go=True)
            slowest = max(silo.hear()["seconds"] for silo in silos)
            return float(slowest + server.ask(go=True)["seconds"])

        yield once, [child.pid for child in (*silos, server)]
