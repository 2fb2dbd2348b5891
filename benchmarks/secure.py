"""A round of averaging with a secure aggregator: masked and in plaintext, in turns in one run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

import fedbroker
from benchmarks._messages import message_counts
from benchmarks._processes import MIB, Cost, Group, cost_of, typical
from benchmarks._report import Judged, Report, Row
from benchmarks.model import HEARTBEAT, supervisors
from fedbroker.broker import PrivateBroker
from fedbroker.testing import local_cohort
from fedbroker.wire import DEFAULT_LIMITS

SILOS = 8
SIZES = {"1 M": (1_000_000, 6), "10 M": (10_000_000, 3)}
"""Number of float32 in the model, and turns."""

MODES: Mapping[str, Mapping[str, Any]] = {
    "plaintext": {"options": fedbroker.Options(secure_sum="plaintext")},
    "masked": {"options": fedbroker.Options(secure_sum="masked")},
    "masked, silos may drop out": {"options": fedbroker.Options(secure_sum="masked"), "stragglers": "drop"},
}
COLUMNS = ("s", "CPU-s", "MB up from a silo", "messages", "coordinator MiB", "more than before MiB")
MORE_TIME, MORE_BYTES, MORE_MEMORY = 1.15, 1.3, 1.3
"""Bars: times the round in plaintext, times the model's float32, times the coordinator's memory with few silos."""

FEW, MANY = 4, 16

HELD = 40
"""Times the model's bytes that a silo holds at most, and the coordinator for each mode."""


@dataclass
class Side:
    """Rounds in one mode.

    Attributes:
        context: of its computations.
        silos: names of the cohort's silos.
        costs: of each round.
        results: digests of the results.
        messages: of one round.
        replies: bytes of the messages of all silos in that round.
        more: bytes by which the coordinator's peak exceeds the one before the first round.
    """

    context: Any
    silos: Sequence[str]
    costs: list[Cost] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)
    messages: int = 0
    replies: int = 0
    more: int = 0

    @property
    def median(self) -> float:
        """Return the median in seconds."""
        return statistics.median([cost.seconds for cost in self.costs])

    @property
    def bytes_up(self) -> int:
        """Return the bytes that a silo sends in a round: its messages, and outputs too large to be in one."""
        stages = self.context.last_session.stages
        outputs = sum(silo.bytes_in for stage in stages for silo in stage.silos if silo.silo == "silo-0")
        return self.replies // len(self.silos) + (outputs if outputs > DEFAULT_LIMITS.inline_blob else 0)

    def row(self, case: str, judged: Judged | None = None) -> Row:
        """Return its row of the table."""
        cost = typical(self.costs)
        peak = cost.peak["coordinator"] / MIB
        figures = (self.median, cost.total, self.bytes_up / 1e6, self.messages, peak, self.more / MIB)
        return Row(case, dict(zip(COLUMNS, figures, strict=True)), judged)


def run(quick: bool) -> Report:
    """Measure both sizes in all modes, then the coordinator's memory with few and with many silos."""
    rows: list[Row] = []
    left_out: list[str] = []
    with PrivateBroker() as broker:
        for name, (numbers, turns) in SIZES.items():
            if quick and numbers > 1_000_000:
                continue
            if HELD * (SILOS + len(MODES)) * 4 * numbers > psutil.virtual_memory().available:
                left_out.append(f"{name}: left out, since it takes more memory than the machine has.")
                continue
            with sides(broker.url, f"secure-{numbers}", SILOS, MODES) as (found, pids):
                rows += _rows(name, numbers, measured(found, pids, broker.url, numbers, turns))
        if not quick:
            rows += _memory(broker.url)
    return Report(
        "secure",
        f"A round of averaging with TFF's secure aggregator and {SILOS} silos, masked and in plaintext",
        COLUMNS,
        rows,
        (
            "Judged: the masked round compared with the same round in plaintext, the bytes that a silo sends compared "
            "with the model as float32, and the growth of the coordinator and its C++ runtime during a round compared "
            "with that for a quarter of the silos. Results are compared: they have equal bits in all modes.",
            "Messages are the work items, replies and notices of a round. Processor time is that of both ends, without "
            "the broker.",
            *left_out,
        ),
    )


def _rows(name: str, numbers: int, found: Mapping[str, Side]) -> list[Row]:
    plain, *masked = found.items()
    rows = [plain[1].row(f"{name}: {plain[0]}")]
    for mode, side in masked:
        rows.append(side.row(f"{name}: {mode}", Judged(side.median / plain[1].median, "≤", MORE_TIME)))
        rows.append(Row(f"{name}: {mode}, bytes", {}, Judged(side.bytes_up / (4 * numbers), "≤", MORE_BYTES)))
    return rows


def _memory(url: str) -> list[Row]:
    rows: list[Row] = []
    of_few = 0
    for silos in (FEW, MANY):
        modes = {"masked": MODES["masked"]}
        with sides(url, f"memory-{silos}", silos, modes) as (found, pids):
            side = measured(found, pids, url, 1_000_000, 2)["masked"]
            of_few = of_few or side.more
            judged = Judged(side.more / of_few, "≤", MORE_MEMORY) if silos == MANY else None
            rows.append(side.row(f"1 M: masked, {silos} silos", judged))
    return rows


@contextlib.contextmanager
def sides(
    url: str, cohort: str, silos: int, modes: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[dict[str, Side], list[int]]]:
    """Yield a context for each mode over one cohort, and the silos' process ids."""
    with (
        local_cohort(silos, cohort=cohort, broker=url, heartbeat=HEARTBEAT, security="sign") as there,
        contextlib.ExitStack() as stack,
    ):
        found: dict[str, Side] = {}
        for name, mode in modes.items():
            context = fedbroker.create_sync_execution_context(
                url, cohort=cohort, min_silos=silos, progress=False, keys=there.keys, **mode
            )
            found[name] = Side(stack.enter_context(context), tuple(there.silos))
        yield found, [process.pid for process in there.silos.values()]


def measured(
    found: dict[str, Side],
    pids: Sequence[int],
    url: str,
    numbers: int,
    turns: int,
    round_of: Callable[[int], Callable[[Side, int], None]] | None = None,
) -> dict[str, Side]:
    """Time rounds by turns, after one to warm up in which messages are counted.

    Args:
        found: the contexts.
        pids: the silos' processes.
        url: the broker's.
        numbers: float32 in the model.
        turns: number of timed rounds.
        round_of: makes a round; None for one of :func:`aggregator_round`.
    """
    from benchmarks._computations import at_server, invoke

    rounds = (round_of or aggregator_round)(numbers)
    for side in found.values():
        invoke(side.context, at_server, 1.0)  # starts the C++ runtime
    groups = {"coordinator": Group([os.getpid()], [*pids, *supervisors()]), "silos": Group(pids)}
    groups["coordinator"].forget_peak()
    before = groups["coordinator"].peak()
    for side in found.values():
        with message_counts(url, side.context.cohort, side.silos) as count:
            rounds(side, 0)
            side.messages, side.replies = count()
    groups["silos"] = Group(pids)  # with the runtimes that have started since
    for turn in range(1, turns + 1):
        for side in found.values():
            with cost_of(groups) as cost:
                rounds(side, turn)
            side.costs.append(cost)
            side.more = max(side.more, cost.peak["coordinator"] - before)
    if len({tuple(side.results) for side in found.values()}) > 1:
        raise RuntimeError("masked results have other bits than those in plaintext")
    return found


def aggregator_round(numbers: int) -> Callable[[Side, int], None]:
    """Return one round by TFF's secure aggregator, with a model that no silo has seen in this mode."""
    import numpy as np

    from benchmarks._computations import invoke, local_context, secure_averaging

    averaged, initialize = secure_averaging(numbers)
    state = invoke(local_context(), initialize)
    model = np.random.default_rng(0).random(numbers, dtype=np.float32)

    def once(side: Side, turn: int) -> None:
        model[0] = turn / 1000  # a different model, with a different digest: nothing is cached
        result, _ = invoke(side.context, averaged, state, model, [1.0] * len(side.silos))
        side.results.append(hashlib.sha256(result.tobytes()).digest())

    return once


def quantized_round(numbers: int) -> Callable[[Side, int], None]:
    """Return one round with updates of 22 bits, with a model that no silo has seen."""
    import numpy as np

    from benchmarks._computations import invoke, quantized_averaging

    averaged = quantized_averaging(numbers)
    model = np.random.default_rng(0).random(numbers, dtype=np.float32)

    def once(side: Side, turn: int) -> None:
        model[0] = turn / 1000
        result = invoke(side.context, averaged, model, [1.0] * len(side.silos))
        if not np.allclose(result, model, atol=1e-4):
            raise RuntimeError("the mean of equal updates differs from them")
        side.results.append(hashlib.sha256(result.tobytes()).digest())

    return once
