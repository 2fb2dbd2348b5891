"""The cost of metrics: counting the events of one invocation, and one scrape of all metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from prometheus_client import generate_latest

from fedbroker.metrics.coordinator import CoordinatorMetrics
from fedbroker.session.events import Event, Listener
from fedbroker.session.report import Recorder, RequestTimings, SessionReport, Statistics
from fedbroker.session.stage_state import Lost
from fedbroker.transport.amqp.connection import TrafficCounters
from fedbroker.wire.messages import Done

ROUNDS = 5


def invocation(silos: list[str], *listeners: Listener) -> None:
    """Record the events of one session with one stage, in which the last silo is dropped."""
    one = Recorder(SessionReport(session="s", cohort="c", members=tuple(silos)), listeners)
    one.emit("session_started", members=silos)
    one.stage_started(0, silos, 60.0)
    for silo in silos[:-1]:
        one.silo_ended(RequestTimings(silo, "1", started=1.0, replied=2.0), Done("s", 0, silo, "1", (("d", 50),), 0.5))
    one.silo_ended(RequestTimings(silos[-1], "1"), Lost(silos[-1], "expired"))
    one.stage_finished(silos, 1, "membership")
    one.finished()


def seconds(once: Callable[[], object], times: int) -> float:
    """Return the seconds of one call, in the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(times):
            once()
        best = min(best, (time.perf_counter() - began) / times)
    return best


def main() -> None:
    """Print a table."""
    logging.disable()  # a line of the log costs more than a count
    traffic = {lane: TrafficCounters(up=True) for lane in ("control", "bulk")}
    body = b"x" * 1000

    def count() -> None:
        traffic["bulk"].messages_out += 1
        traffic["bulk"].bytes_out += len(body)

    print(f"one message counted    {seconds(count, 100_000) * 1e6:8.2f} µs")
    print("silos   an invocation's events: none listens, metrics listen, a silo's share   a scrape, its size")
    for number in (2, 10, 100, 1000):
        silos = [f"silo-{n}" for n in range(number)]
        there = Statistics(tuple(silos), (), traffic, 0, {})
        metrics = CoordinatorMetrics("c", statistics=lambda there=there: there, restarts=lambda: 0)
        for silo in silos:
            metrics.on_event(Event("silo_joined", silo=silo))
        times = max(2, 2000 // number)
        without = seconds(lambda: invocation(silos), times)  # noqa: B023  called at once
        heard = seconds(lambda: invocation(silos, metrics.on_event), times)  # noqa: B023
        scrape = seconds(lambda: generate_latest(metrics.registry), 3)  # noqa: B023
        size = len(generate_latest(metrics.registry))
        share = (heard - without) / number
        print(
            f"{number:5} {without * 1e3:32.3f} ms {heard * 1e3:11.3f} ms {share * 1e6:13.1f} µs"
            f" {scrape * 1e3:14.2f} ms {size / 1000:6.0f} kB"
        )


if __name__ == "__main__":
    main()
