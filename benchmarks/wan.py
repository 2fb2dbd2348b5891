"""A barrier and a round of federated averaging over a line with latency, next to TFF's own RemoteExecutor over it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import fedbroker
from benchmarks._children import Child
from benchmarks._processes import TIMES, Timed, by_turns
from benchmarks._report import Judged, Report, Row
from fedbroker.broker import PrivateBroker
from fedbroker.testing import local_cohort

ONE_WAY = 0.025
SILOS = 2
BARRIERS = 1
"""Of both computations; :func:`both` checks it."""

HEARTBEAT = 5.0
OURS, RELAY, HERE = "fedbroker, 2 silos", "TFF's RemoteExecutor over gRPC, 1 worker", "TFF's local context, no line"


COLUMNS = (*TIMES, "round trips")


def run(quick: bool) -> Report:
    """Measure both computations on both sides, and their computing time without the line."""
    rows: list[Row] = []
    notes = [
        f"Judged: the time, compared with (barriers + 0.5) round trips of {2 * ONE_WAY * 1e3:g} ms plus the time "
        "without a line; and the ratio of the time of TFF's own relay. Each computation is one barrier.",
    ]
    with contexts() as (there, relayed):
        for name, computation in both().items():
            calls = {side: computation(context) for side, context in there.items()}
            by_turns(calls, 1, 3)  # warm-up: makes the plans, sends the computations
            turns, relayed.count = 5 if quick else 15, 0
            timed = by_turns(calls, turns)
            rows += judged(name, timed, relayed.count / turns)
            notes.append(most(name, timed))
    title = f"The line to the silos takes {ONE_WAY * 1e3:g} ms each way, in a proxy on this machine"
    return Report("wan", title, COLUMNS, rows, notes)


def judged(name: str, timed: Mapping[str, Timed], calls: float) -> list[Row]:
    """Return the rows of one computation."""
    allowed = (BARRIERS + 0.5) * 2 * ONE_WAY + timed[HERE].median
    bars = {
        OURS: Judged(timed[OURS].median * 1e3, "≤", round(allowed * 1e3, 1), "ms"),
        RELAY: Judged(timed[RELAY].median / timed[OURS].median, "≥", 4),
    }
    trips = {OURS: BARRIERS, RELAY: calls}
    return [
        Row(f"{name}: {side}", {**one.figures(), "round trips": trips.get(side)}, bars.get(side))
        for side, one in timed.items()
    ]


def most(name: str, timed: Mapping[str, Timed]) -> str:
    """Describe how far ahead of the RemoteExecutor any implementation with one round trip could be."""
    least = BARRIERS * 2 * ONE_WAY + timed[HERE].median
    return (
        f"{name}: one round trip and the computing take {least * 1e3:.0f} ms. Without any overhead that is "
        f"{timed[RELAY].median / least:.1f} times as fast as the relay."
    )


@contextlib.contextmanager
def contexts() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the contexts, and the counter of the RemoteExecutor's calls.

    The cohort and the RemoteExecutor are each behind a line of their own; TFF's local context has none.
    """
    from benchmarks._computations import local_context
    from benchmarks._relayed import Calls, remote_context

    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(PrivateBroker())
        far = behind(stack, broker.port)
        address = urlsplit(broker.url)
        url = address._replace(netloc=f"{address.netloc.rpartition(':')[0]}:{far}").geturl()
        stack.enter_context(local_cohort(SILOS, cohort="wan", broker=url, heartbeat=HEARTBEAT))
        ours = stack.enter_context(
            fedbroker.create_sync_execution_context(broker.url, cohort="wan", min_silos=SILOS, progress=False)
        )
        worker = stack.enter_context(Child("benchmarks._worker"))
        calls = Calls()
        relay = remote_context(behind(stack, worker.hear()["port"]), calls)
        yield {OURS: ours, RELAY: relay, HERE: local_context()}, calls


def behind(stack: contextlib.ExitStack, port: int) -> int:
    """Return a port of this machine that leads to another one, over the line with latency."""
    line = stack.enter_context(Child("benchmarks._delay", port=port, seconds=ONE_WAY))
    return int(line.hear()["port"])


def both() -> dict[str, Callable[[Any], Callable[[], object]]]:
    """Return the computations: for a context, one call."""
    from benchmarks._computations import batches, invoke, total
    from examples.airports.computations import learning

    process = learning()
    for computation in (total, process.next):
        if fedbroker.explain(computation).round_trips != BARRIERS:
            raise RuntimeError("the computation has another number of barriers")
    clients = [batches(seed) for seed in range(SILOS)]

    def summing(context: Any) -> Callable[[], object]:  # noqa: ANN401
        return lambda: invoke(context, total, [1.0] * SILOS)

    def averaging(context: Any) -> Callable[[], object]:  # noqa: ANN401
        state = [invoke(context, process.initialize)]

        def round_() -> None:
            state[0] = invoke(context, process.next, state[0], clients).state

        return round_

    return {"sum": summing, "FedAvg": averaging}
