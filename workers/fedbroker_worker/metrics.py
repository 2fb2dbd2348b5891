"""A silo's metrics for Prometheus; imported only if its settings name an address to serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily

from fedbroker.metrics.exposition import SECONDS, Registry, connection_metrics, counter, gauge
from fedbroker.wire.messages import Done, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client import Metric

    from fedbroker_worker.masking.exchange import MaskCounters
    from fedbroker_worker.service import Statistics
    from fedbroker_worker.work.worker import WorkReply

__all__ = ["SiloMetrics"]

OUTCOMES: Final = ("done", "lacking", "data", "computation", "lost", "refused", "timeout")
"""Label values, exported from the start, so that the first failure shows as an increase from 0.

``lacking`` means that blobs had to be requested; the values after it are kinds of failures.
"""


class SiloMetrics:
    """A registry of counters of replies, and of the service's own counters, read at each scrape.

    No session's id is ever a label.

    Args:
        cohort: the cohort's name, a label of each metric.
        silo: the silo's name, a label of each metric.

    Attributes:
        registry: the Prometheus registry.
    """

    def __init__(self, cohort: str, silo: str) -> None:
        self.registry = Registry()
        self._labels = {"cohort": cohort, "silo": silo}
        names = tuple(self._labels)
        self._items = Counter(
            "fedbroker_work_items", "Replies to work items, by outcome.", (*names, "outcome"), registry=self.registry
        )
        self._seconds = Histogram(
            "fedbroker_work_seconds",
            "Seconds of each completed work item: transfer of blobs, and compute.",
            (*names, "phase"),
            registry=self.registry,
            buckets=SECONDS,
        )
        for outcome in OUTCOMES:
            self._items.labels(cohort, silo, outcome)
        self._transfer = self._seconds.labels(cohort, silo, "transfer")
        self._compute = self._seconds.labels(cohort, silo, "compute")

    def watch(self, statistics: Callable[[], Statistics]) -> None:
        """Also export the service's counters.

        Args:
            statistics: returns the counters; called from any thread.
        """
        self.registry.register(_ServiceCollector(self._labels, statistics))

    def count_reply(self, work_reply: WorkReply) -> None:
        """Count a reply."""
        reply = work_reply.message
        outcome = "done" if isinstance(reply, Done) else reply.error_type if isinstance(reply, Failed) else "lacking"
        self._items.labels(*self._labels.values(), outcome).inc()
        if isinstance(reply, Done):
            self._transfer.observe(reply.blob_wait)
            self._compute.observe(max(0.0, reply.duration - reply.blob_wait))


class _ServiceCollector:
    """A collector that reads the service's counters at each scrape."""

    def __init__(self, labels: Mapping[str, str], statistics: Callable[[], Statistics]) -> None:
        self._labels = labels
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """Yield the current metrics; prometheus-client calls this in its own thread at each scrape."""
        now = self._statistics()
        labels, work = self._labels, now.work_counters
        yield gauge("fedbroker_work_running", "Work items that are running.", labels, now.running)
        yield gauge("fedbroker_sessions_held", "Sessions with values at the silo.", labels, now.sessions)
        yield gauge("fedbroker_blob_cache_bytes", "Size of the blob cache in bytes.", labels, now.cached_bytes)
        yield counter(
            "fedbroker_work_redeliveries", "Redeliveries of work items by the broker.", labels, work.redelivered
        )
        yield counter(
            "fedbroker_work_rejected",
            "Dead-lettered messages: not work for this silo, or delivered too often.",
            labels,
            work.rejected,
        )
        yield counter("fedbroker_replies_failed", "Replies that could not be sent.", labels, now.replies_failed)
        yield counter("fedbroker_runtime_restarts", "Restarts of the C++ runtime after it died.", labels, now.restarts)
        yield counter(
            "fedbroker_runtimes_retired",
            "C++ runtimes that were replaced while they computed cancelled work.",
            labels,
            now.retired,
        )
        blobs = CounterMetricFamily(
            "fedbroker_blobs",
            "Blobs that work items needed: cached, sent by the coordinator, or lacking.",
            labels=(*labels, "found"),
        )
        for found, value in (
            ("cached", work.blobs_cached),
            ("sent", work.blobs_sent),
            ("lacking", work.blobs_lacking),
        ):
            blobs.add_metric((*labels.values(), found), value)
        yield blobs
        yield from self._of_masks(now.masks)
        yield from connection_metrics(now.traffic, labels)

    def _of_masks(self, masks: MaskCounters) -> Iterable[Metric]:
        sums = CounterMetricFamily(
            "fedbroker_masked_sums",
            "Masked sums, by the step that this silo has reached.",
            labels=(*self._labels, "step"),
        )
        for step, value in (
            ("begun", masks.begun),
            ("masked", masks.masked),
            ("revealed", masks.revealed),
            ("failed", masks.failed),
        ):
            sums.add_metric((*self._labels.values(), step), value)
        yield sums
        yield counter("fedbroker_mask_notices_refused", "Notices that this silo refused.", self._labels, masks.refused)
