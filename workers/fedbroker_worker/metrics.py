"""A silo's metrics, served over HTTP where its settings say; loaded only then.

Imports what both sides share of metrics, and this distribution's modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily

from fedbroker.metrics.exposition import SECONDS, Registry
from fedbroker.metrics.lanes import counter, gauge, lanes
from fedbroker.wire.messages import Done, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import Metric

    from fedbroker_worker.statistics import Statistics
    from fedbroker_worker.work import Answer

__all__ = ["SiloMetrics"]

OUTCOMES: Final = ("done", "lacking", "data", "computation", "lost", "refused", "time")
"""``lacking``: blobs had to be asked for; those after it are kinds of failures, as ``docs/metrics.md`` says."""


class SiloMetrics:
    """Counts answers, and reads what the service counts when it is scraped. No session's id is ever a label.

    Args:
        cohort: its name: a label of each metric.
        silo: the same.

    Attributes:
        registry: holds the metrics.
    """

    def __init__(self, cohort: str, silo: str) -> None:
        self.registry = Registry()
        self._who = {"cohort": cohort, "silo": silo}
        names = tuple(self._who)
        self._items = Counter(
            "fedbroker_work_items", "Work items answered, by outcome.", (*names, "outcome"), registry=self.registry
        )
        self._seconds = Histogram(
            "fedbroker_work_seconds",
            "Work that was done: waiting for blobs, and reading data and computing.",
            (*names, "phase"),
            registry=self.registry,
            buckets=SECONDS,
        )
        for outcome in OUTCOMES:
            self._items.labels(cohort, silo, outcome)
        self._transfer = self._seconds.labels(cohort, silo, "transfer")
        self._compute = self._seconds.labels(cohort, silo, "compute")

    def watch(self, statistics: Callable[[], Statistics]) -> None:
        """Read the service's counts, too, from any thread."""
        self.registry.register(_Watched(self._who, statistics))

    def answered(self, answer: Answer) -> None:
        """Count an answer."""
        reply = answer.reply
        outcome = "done" if isinstance(reply, Done) else reply.kind if isinstance(reply, Failed) else "lacking"
        self._items.labels(*self._who.values(), outcome).inc()
        if isinstance(reply, Done):
            self._transfer.observe(reply.waited)
            self._compute.observe(max(0.0, reply.seconds - reply.waited))


class _Watched:
    """What is read from the service when it is scraped."""

    def __init__(self, who: Mapping[str, str], statistics: Callable[[], Statistics]) -> None:
        self._who = who
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """What is read when it is scraped; prometheus-client calls it, in a thread of its own."""
        now = self._statistics()
        who, taken = self._who, now.taken
        yield gauge("fedbroker_work_in_hand", "Work items that the silo works on.", who, now.in_hand)
        yield gauge("fedbroker_sessions_held", "Sessions that are alive at the silo.", who, now.sessions)
        yield gauge("fedbroker_blob_cache_bytes", "What the blobs that are kept take.", who, now.cached_bytes)
        yield counter(
            "fedbroker_work_redeliveries", "Deliveries that had been delivered before.", who, taken.redelivered
        )
        yield counter(
            "fedbroker_work_rejected", "Messages that were no work, or came back too often.", who, taken.rejected
        )
        yield counter("fedbroker_runtime_restarts", "Times that the C++ runtime had died.", who, now.restarts)
        yield counter(
            "fedbroker_runtimes_retired", "Times that it was replaced, busy with what was given up.", who, now.retired
        )
        blobs = CounterMetricFamily(
            "fedbroker_blobs", "Blobs that work items named, by where they were found.", labels=(*who, "found")
        )
        for found, value in (
            ("cached", taken.blobs_cached),
            ("sent", taken.blobs_sent),
            ("lacking", taken.blobs_lacking),
        ):
            blobs.add_metric((*who.values(), found), value)
        yield blobs
        yield from lanes(now.traffic, who)
