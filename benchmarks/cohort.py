"""Measure how soon a silo is useful: from its process's start to ready, and from joining to its first reply."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import fedbroker
from benchmarks._processes import MIB, Group, Timed
from benchmarks._report import Judged, Report, Row
from fedbroker.deadline import Deadline
from fedbroker.testing import SiloProcess, local_cohort

HEARTBEAT = 5.0
PATIENCE = 60.0
LATER = "silo-1"
COLUMNS = ("median ms", "longest ms", "CPU-s", "silo MiB")


@dataclass
class Clock:
    """An event listener that records when the silo joined, and when its reply arrived."""

    joined: float = 0.0
    answered: float = 0.0
    at_silo: float = 0.0

    def hear(self, event: fedbroker.Event) -> None:
        """Record the times."""
        if event.silo == LATER and event.name == "silo_joined":
            self.joined = time.perf_counter()
        elif event.silo == LATER and event.name == "silo_answered":
            self.answered = time.perf_counter()
            self.at_silo = event.details["compute"] + event.details["transfer"]


@dataclass
class Found:
    """Seconds of each start, and the resources that the process took until it was ready."""

    ready: Timed = field(default_factory=Timed)
    work: Timed = field(default_factory=Timed)
    answered: Timed = field(default_factory=Timed)
    peak: int = 0


def run(quick: bool) -> Report:
    """Restart a second silo repeatedly, while an invocation waits for it."""
    from benchmarks._computations import invoke, total

    found, clock = Found(), Clock()
    with (
        local_cohort(2, cohort="start", heartbeat=HEARTBEAT) as cohort,
        fedbroker.create_sync_execution_context(
            cohort.url,
            cohort="start",
            min_silos=2,
            on_event=clock.hear,
            progress=False,
            timeouts=fedbroker.Timeouts(join=PATIENCE),
        ) as context,
        ThreadPoolExecutor(1) as beside,
    ):
        for _ in range(2):
            invoke(context, total, [1.0, 1.0])

        def sum_up() -> float:
            invoke(context, total, [1.0, 1.0])
            return time.perf_counter()

        for _ in range(3 if quick else 10):
            start_once(cohort.silos[LATER], lambda: beside.submit(sum_up).result, clock, found)
    return report(found)


def start_once(silo: SiloProcess, waiting: Callable[[], Callable[[], float]], clock: Clock, found: Found) -> None:
    """Stop the silo, start an invocation that waits for it, and start the silo."""
    silo.stop()
    result = waiting()
    start = time.perf_counter()
    silo.start()
    silo.wait_ready(Deadline.after(PATIENCE))
    found.ready.seconds.append(time.perf_counter() - start)
    processes = Group([silo.pid])
    found.ready.processor += processes.seconds()
    found.peak = max(found.peak, processes.peak())
    answered = result()
    found.work.seconds.append(clock.answered - clock.at_silo - clock.joined)
    found.answered.seconds.append(answered - clock.joined)


def report(found: Found) -> Report:
    """Return the table."""
    starts = len(found.ready.seconds)

    def figures(timed: Timed, *more: float) -> dict[str, float | None]:
        return dict(zip(COLUMNS, (timed.median * 1e3, max(timed.seconds) * 1e3, *more), strict=False))

    return Report(
        "cohort",
        f"A silo's start ({starts} times)",
        COLUMNS,
        [
            Row(
                "start of the process to ready",
                figures(found.ready, found.ready.processor / starts, found.peak / MIB),
                Judged(found.ready.median, "≤", 3, "s"),
            ),
            Row(
                "joining to the first work",
                figures(found.work),
                Judged(found.work.median * 1e3, "≤", 100, "ms"),
            ),
            Row("joining to the result", figures(found.answered)),
        ],
        (
            "Ready: the silo says so, with its C++ runtime up. An invocation waits for it. The time to its first work "
            "starts when the coordinator receives the silo's announcement. It contains the reply's way back, but not "
            "the silo's work in between.",
        ),
    )
