"""A coordinator's memory while many silos have large updates for it: a few updates, for any number of silos."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fedbroker
from benchmarks._children import Child
from benchmarks._processes import MIB, Cost, Group, cost_of, typical
from benchmarks._report import Judged, Report, Row
from benchmarks.model import supervisors
from fedbroker.broker import PrivateBroker
from fedbroker.session.stage_state import MergeOrder

COLUMNS = ("s", "all updates MiB", "coordinator MiB", "more than before MiB", "CPU-s per GiB")
BAR = 1.5
"""Times the memory that a quarter of the silos take."""


@dataclass(frozen=True, slots=True)
class Case:
    """A number of silos, and how their updates are merged.

    Attributes:
        silos: their number.
        order: of merging.
        waiting: silos hold their updates until the coordinator asks for them.
    """

    silos: int
    order: MergeOrder = "membership"
    waiting: bool = True

    def __str__(self) -> str:
        how = ", by arrival" if self.order == "arrival" else "" if self.waiting else ", none told to wait"
        return f"{self.silos} silos{how}"

    @property
    def limits(self) -> fedbroker.Limits:
        """Return the limits of the coordinator."""
        usual = fedbroker.Limits()
        return usual if self.waiting else fedbroker.Limits(held_results=usual.max_blob)


def run(quick: bool) -> Report:
    """Measure 64 silos with 16 MiB each, or 16 silos with 4 MiB; in both orders, and with silos that send at once."""
    most, mib = (16, 4) if quick else (64, 16)
    rows: list[Row] = []
    of_few = 0
    for case in (Case(most // 4), Case(most), Case(most, "arrival"), Case(most, waiting=False)):
        cost, more = measure(case, mib * MIB, turns=2)
        of_few = of_few or more
        together = case.silos * mib
        judged = Judged(more / of_few, "≤", BAR) if case.silos == most and case.waiting else None
        peak, processor = cost.peak["coordinator"] / MIB, cost.processor["coordinator"]
        figures = (cost.seconds, together, peak, more / MIB, processor / together * 1024)
        rows.append(Row(str(case), dict(zip(COLUMNS, figures, strict=True)), judged))
    return Report(
        "memory",
        f"A coordinator's memory while silos send updates of {mib} MiB",
        COLUMNS,
        rows,
        (
            "Judged: the growth of the coordinator and its C++ runtime during the round, compared with the growth for "
            "a quarter of the silos. The silos are in one process and have their updates ready. The messages to them "
            "are small.",
        ),
    )


def measure(case: Case, size: int, turns: int) -> tuple[Cost, int]:
    """Return a round's cost, and by how many bytes its peak exceeds the one before the first round."""
    with PrivateBroker() as broker, rounds(broker.url, case, size // 4) as (once, apart):
        group = Group([os.getpid()], [*apart, *supervisors()])
        group.forget_peak()
        before = group.peak()
        costs = []
        for _ in range(turns):
            with cost_of({"coordinator": group}) as cost:
                once()
            costs.append(cost)
        found = typical(costs)
        return found, found.peak["coordinator"] - before


@contextlib.contextmanager
def rounds(url: str, case: Case, numbers: int) -> Iterator[tuple[Callable[[], None], list[int]]]:
    """Yield a call of one round that checks its result, and the silos' process id."""
    import numpy as np

    from benchmarks._computations import at_server, invoke, updating

    summed = updating(numbers)
    with (
        Child("benchmarks._updates", url=url, cohort="memory", silos=case.silos, numbers=numbers) as child,
        fedbroker.create_sync_execution_context(
            url,
            cohort="memory",
            min_silos=case.silos,
            progress=False,
            options=fedbroker.Options(merge_order=case.order, limits=case.limits),
        ) as context,
    ):
        child.hear()
        invoke(context, at_server, 1.0)  # starts the C++ runtime

        def once() -> None:
            found = invoke(context, summed, [1.0] * case.silos)
            if found.shape != (numbers,) or not np.all(found == sum(range(case.silos))):
                raise RuntimeError("the round's result is wrong")

        yield once, [child.pid]
