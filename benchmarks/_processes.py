"""Measure processes: seconds of processor time, and peak memory."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 1 << 20
GIB = 1 << 30
BROKER = "beam.smp"


class Group:
    """Processes with all their descendants, except the processes of other groups.

    Args:
        roots: process ids.
        apart: process ids that are left out, with all their descendants.
    """

    def __init__(self, roots: Sequence[int], apart: Sequence[int] = ()) -> None:
        left_out = {one.pid for pid in apart for one in _family(pid)}
        self._processes = [one for pid in roots for one in _family(pid) if one.pid not in left_out]

    def seconds(self, *, ended: bool = False) -> float:
        """Return the processor time so far of the running processes; with ``ended``, of their ended children, too."""
        total = 0.0
        for one in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system
                total += times.children_user + times.children_system if ended else 0.0
        return total

    def forget_peak(self) -> None:
        """Reset the peak: it counts from now on."""
        for one in self._processes:
            with contextlib.suppress(OSError):
                Path(f"/proc/{one.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the sum of the peaks of all processes, in bytes."""
        return sum(_peak(one.pid) for one in self._processes)


@dataclass
class Cost:
    """The cost of a block of code.

    Attributes:
        seconds: by the clock.
        processor: seconds of processor time, by group.
        peak: bytes, by group.
    """

    seconds: float = 0.0
    processor: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Return the processor time of all groups."""
        return sum(self.processor.values())


@contextlib.contextmanager
def cost_of(groups: Mapping[str, Group]) -> Iterator[Cost]:
    """Measure the cost of the block; filled in at its end."""
    cost = Cost()
    for group in groups.values():
        group.forget_peak()
    before = {name: group.seconds() for name, group in groups.items()}
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    cost.processor = {name: group.seconds() - before[name] for name, group in groups.items()}
    cost.peak = {name: group.peak() for name, group in groups.items()}


def typical(costs: Sequence[Cost]) -> Cost:
    """Return the cost of median time, with the largest peak of all."""
    middle = sorted(costs, key=lambda one: one.seconds)[(len(costs) - 1) // 2]
    peak = {name: max(one.peak[name] for one in costs) for name in middle.peak}
    return Cost(middle.seconds, middle.processor, peak)


def broker_pid() -> int:
    """Return the process id of the only RabbitMQ node among the descendants of this process."""
    (pid,) = [one.pid for one in psutil.Process().children(recursive=True) if one.name() == BROKER]
    return pid


@dataclass
class Timed:
    """Calls of one kind.

    Attributes:
        seconds: of each.
        processor: seconds of processor time of all of them, in this process and all its descendants.
    """

    seconds: list[float] = field(default_factory=list)
    processor: float = 0.0

    @property
    def median(self) -> float:
        """Return the median in seconds."""
        return statistics.median(self.seconds)

    @property
    def ninth(self) -> float:
        """Return the seconds that nine in ten calls do not reach."""
        return sorted(self.seconds)[int(0.9 * len(self.seconds))]

    def figures(self) -> dict[str, float | None]:
        """Return the figures by the headings of ``TIMES``."""
        each = self.processor / len(self.seconds)
        return dict(zip(TIMES, (self.median * 1e3, self.ninth * 1e3, each * 1e3), strict=True))


TIMES = ("median ms", "p90 ms", "processor ms")


def by_turns(
    calls: Mapping[str, Callable[[], object]], turns: int, each: int = 1, apart: Sequence[int] = ()
) -> dict[str, Timed]:
    """Make each call ``each`` times in a row and then the next, so that a busy machine slows all of them alike.

    The processor time is that of this process and all its descendants, except the processes in ``apart``.
    """
    group = Group([os.getpid()], apart)
    timed = {name: Timed() for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            before = group.seconds()
            for _ in range(each):
                start = time.perf_counter()
                call()
                timed[name].seconds.append(time.perf_counter() - start)
            timed[name].processor += group.seconds() - before
    return timed


def _family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    return 0
