"""One small barrier, a sum of scalars: what a round costs when nothing has to be moved.

Beside it, by turns, the least that it can take on this machine: bare aio-pika that sends as many messages the same way,
and the C++ runtime alone with the stages of the barrier.
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

HEARTBEAT = 5.0  # that of a silo in service
AT_ONCE = 8
"""Silos that start side by side: more of them would run into each other's time to start."""
SCALAR = 4
"""Bytes of what goes to a silo, and of what comes back."""


def run(quick: bool) -> Report:
    """Measure with 2 and 8 silos, and with 32 where there is time."""
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
        "One small barrier: the sum of a scalar of each silo",
        TIMES,
        [Row(name, one.figures(), judged.get(name)) for name, one in timed.items()],
        (
            "Silos are processes on this machine, each with its own C++ runtime: where there are more of them than "
            "processors they wait for each other. 8 silos are judged by how much longer they take than 2.",
            "The least: bare aio-pika takes a message to each silo and one back, then the C++ runtime alone computes "
            "the stages, each silo's at once: no plan, no session, nothing named, timed or tried again.",
            *growth(list(least.values())),
        ),
    )


def measure(url: str, sizes: tuple[int, ...], turns: int, each: int, *, local: bool = False) -> dict[str, Timed]:
    """Calls with so many silos, and on TFF's own context."""
    with contextlib.ExitStack() as stack:
        calls = {f"{silos} silos": stack.enter_context(summing(url, silos)) for silos in sizes}
        if local:
            calls |= {least_of(silos): stack.enter_context(leasts(url, silos)) for silos in sizes}
            calls["TFF's local context, 2 clients"] = locally()
        by_turns(calls, 1, 5)  # plans are made, computations sent
        return by_turns(calls, turns, each)


def least_of(silos: int) -> str:
    """The heading of what so many silos take at least."""
    return f"the least, {silos} silos"


def growth(least: list[Timed]) -> Iterator[str]:
    """How much longer the least takes with more silos."""
    if len(least) > 1:
        times = least[-1].median / least[0].median
        yield f"The least grows by {times:.2f}x itself: silos of one machine share its processors."


@contextlib.contextmanager
def leasts(url: str, silos: int) -> Iterator[Callable[[], object]]:
    """One exchange by bare aio-pika, and then the stages by the C++ runtime alone."""
    case = Case(SCALAR, silos)
    with bare(url, case) as (moving, _), runtime_alone(case) as (computing, _):
        yield lambda: (moving(), computing())


@contextlib.contextmanager
def summing(url: str, silos: int) -> Iterator[Callable[[], object]]:
    """A cohort of so many silos; one call of the barrier."""
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
    """One call of the barrier on TFF's own context."""
    from benchmarks._computations import invoke, local_context, total

    return functools.partial(invoke, local_context(), total, [1.0, 1.0])
