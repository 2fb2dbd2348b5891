"""One small barrier, a sum of scalars: the cost of a round that moves almost no data.

The lower bounds are measured in turns with it: bare aio-pika that sends as many messages in the same pattern, and the
C++ runtime alone with the stages of the barrier.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import fedbroker
from benchmarks._processes import TIMES, Timed, by_turns
from benchmarks._report import Judged, Report, Row
from benchmarks.model import Case, bare, runtime_alone
from fedbroker.broker import PrivateBroker
from fedbroker.testing import local_cohort

HEARTBEAT = 5.0  # as of a real silo
AT_ONCE = 8
"""Silos started at the same time: more of them would slow down each other's start."""
SCALAR = 4
"""Bytes sent to a silo, and received from it."""


def run(quick: bool) -> Report:
    """Measure with 2 and 8 silos, and with 32 unless ``quick``."""
    few = (2,) if quick else (2, 8)
    turns, each = (3, 10) if quick else (10, 12)
    with PrivateBroker() as broker:
        timed = measure(broker.url, few, turns, each, local=True)
        if not quick:
            timed |= measure(broker.url, (32,), 4, 5)
    judged = {"2 silos": Judged(timed["2 silos"].median * 1e3, "≤", 15, "ms")}
    if "8 silos" in timed:
        judged["8 silos"] = Judged(timed["8 silos"].median / timed["2 silos"].median, "≤", 1.5)
    least = {name: one for name, one in timed.items() if name in map(least_of, few)}
    return Report(
        "barrier",
        "One small barrier: the sum of one scalar per silo",
        TIMES,
        [Row(name, one.figures(), judged.get(name)) for name, one in timed.items()],
        (
            "Silos are processes on this machine, each with its own C++ runtime. More silos than processors wait for "
            "each other. 8 silos are judged by the ratio of their time to that of 2.",
            "The least: bare aio-pika takes a message to each silo and one back. Then the C++ runtime alone computes "
            "the stages, all silos at once. It has no plan, no session, no names, no timeouts and no retries.",
            *growth(list(least.values())),
        ),
    )


def measure(url: str, sizes: tuple[int, ...], turns: int, each: int, *, local: bool = False) -> dict[str, Timed]:
    """Time calls with each number of silos, and on TFF's own context."""
    with contextlib.ExitStack() as stack:
        calls = {f"{silos} silos": stack.enter_context(summing(url, silos)) for silos in sizes}
        if local:
            calls |= {least_of(silos): stack.enter_context(leasts(url, silos)) for silos in sizes}
            calls["TFF's local context, 2 clients"] = locally()
        by_turns(calls, 1, 5)  # warm-up: makes the plans, sends the computations
        return by_turns(calls, turns, each)


def least_of(silos: int) -> str:
    """Return the heading of the lower bound for a number of silos."""
    return f"the least, {silos} silos"


def growth(least: list[Timed]) -> Iterator[str]:
    """Return by how much the lower bound grows with more silos."""
    if len(least) > 1:
        times = least[-1].median / least[0].median
        yield f"The least grows by {times:.2f}x itself: silos of one machine share its processors."


@contextlib.contextmanager
def leasts(url: str, silos: int) -> Iterator[Callable[[], object]]:
    """Yield a call of one exchange by bare aio-pika, and then of the stages by the C++ runtime alone."""
    case = Case(SCALAR, silos)
    with bare(url, case) as (moving, _), runtime_alone(case) as (computing, _):
        yield lambda: (moving(), computing())


@contextlib.contextmanager
def summing(url: str, silos: int) -> Iterator[Callable[[], object]]:
    """Yield one call of the barrier on a cohort of ``silos`` silos."""
    from benchmarks._computations import invoke, total

    cohort = f"barrier-{silos}"
    with contextlib.ExitStack() as stack:
        for first in range(0, silos, AT_ONCE):
            names = [f"silo-{number:02}" for number in range(first, min(first + AT_ONCE, silos))]
            stack.enter_context(
                local_cohort({name: {} for name in names}, cohort=cohort, broker=url, heartbeat=HEARTBEAT)
            )
        context = stack.enter_context(
            fedbroker.create_sync_execution_context(url, cohort=cohort, min_silos=silos, progress=False)
        )
        yield functools.partial(invoke, context, total, [1.0] * silos)


def locally() -> Callable[[], object]:
    """Return one call of the barrier on TFF's own context."""
    from benchmarks._computations import invoke, local_context, total

    return functools.partial(invoke, local_context(), total, [1.0, 1.0])
