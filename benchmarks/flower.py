"""Compare a round of averaging with Flower's: the same model, as many nodes, each as its users run it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from benchmarks._federation import Federation, federation
from benchmarks._processes import Group, by_turns
from benchmarks._report import Judged, Report, Row
from benchmarks.model import Case, context_of, round_of
from fedbroker.broker import PrivateBroker

NODES = 2
COLUMNS = ("s", "CPU-s")
SIZES = {"1 KB": (1000, 20, 3), "100 MB": (100_000_000, 2, 2)}
"""Bytes of the model, the goal for how many times as fast fedbroker is, and the number of timed rounds."""


@dataclass
class Side:
    """Rounds of one side.

    Attributes:
        seconds: of each.
        processor: seconds of each, on average, of all processes.
    """

    seconds: list[float] = field(default_factory=list)
    processor: float = 0.0

    @property
    def median(self) -> float:
        """Return the median in seconds."""
        return statistics.median(self.seconds)

    def row(self, case: str, judged: Judged | None = None) -> Row:
        """Return its row of the table."""
        return Row(case, dict(zip(COLUMNS, (self.median, self.processor), strict=True)), judged)


def run(quick: bool) -> Report:
    """Measure both sizes; with ``quick`` only the small one."""
    rows: list[Row] = []
    with (
        PrivateBroker() as broker,
        context_of(broker.url, NODES) as (context, _),
        federation(NODES) as theirs,
    ):
        for name, (size, bar, rounds) in SIZES.items():
            if quick and size > 1000:
                continue
            flower, ours = flowers(theirs, size, rounds), our_own(context, size, theirs.pids)
            rows.append(ours.row(f"{name}: fedbroker, {NODES} silos"))
            rows.append(
                flower.row(f"{name}: Flower, {NODES} SuperNodes", Judged(flower.median / ours.median, "≥", bar))
            )
    return Report(
        "flower",
        f"A round of averaging with {NODES} nodes, compared with Flower 1.42 on the same machine in the same run",
        COLUMNS,
        rows,
        (
            "Flower: SuperLink and SuperNodes are processes, without TLS, as in its documentation. Times are taken in "
            "its ServerApp, after a round to warm up. Its processor time is that of a whole run divided by its "
            "rounds.",
        ),
    )


def our_own(context: object, size: int, apart: list[int]) -> Side:
    """Time rounds on the cohort, after one to warm up."""
    once = round_of(context, Case(size, NODES))
    once()
    timed = by_turns({"round": once}, 5, apart=apart)["round"]
    return Side(timed.seconds, timed.processor / len(timed.seconds))


def flowers(theirs: Federation, size: int, rounds: int) -> Side:
    """Time rounds on Flower."""
    group = Group(theirs.pids)
    before = group.seconds(ended=True)
    seconds = theirs.rounds(size // 4, rounds)
    return Side(seconds, (group.seconds(ended=True) - before) / (rounds + 1))
