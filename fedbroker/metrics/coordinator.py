"""A coordinator's metrics of its cohort and its sessions, counted from the same events as the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, get_args

from prometheus_client import Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedbroker.metrics.exposition import SECONDS, Registry, connection_metrics, counter, gauge
from fedbroker.session.events import Event, EventDetails
from fedbroker.session.report import Statistics
from fedbroker.session.stage_state import OutcomeName
from fedbroker.transport.coordinator.requests import Reason

__all__ = ["CoordinatorMetrics"]

MOST_SILOS: Final = 1000
"""Silos with series of their own, so that memory stays bounded; further silos share the series of ``OTHERS``."""
OTHERS: Final = "(others)"

OUTCOMES: Final = ("ok", "failed", "cancelled")
PHASES: Final[tuple[Literal["queue", "transfer", "compute"], ...]] = ("queue", "transfer", "compute")


class CoordinatorMetrics:
    """Counts events, and reads other counters when it is scraped. A session's id is never a label.

    Args:
        cohort: its name: a label of each metric.
        statistics: reads the cohort's own counts, from any thread; None before the cohort has any.
        restarts: reads how often the coordinator's C++ runtime was restarted.

    Attributes:
        registry: holds the metrics.
    """

    def __init__(
        self, cohort: str, *, statistics: Callable[[], Statistics | None], restarts: Callable[[], int]
    ) -> None:
        self.registry = Registry()
        self._cohort = cohort
        self._statistics = statistics
        self._restarts = restarts
        self._running: set[str] = set()
        self._unanswered: dict[str, int] = {}  # by session: work items without a reply
        self._silos: set[str] = set()
        self._define()
        self.registry.register(self)

    def _define(self) -> None:
        self._sessions = self._counter("fedbroker_sessions", "Finished sessions, by outcome.", "outcome")
        self._errors = self._counter("fedbroker_session_errors", "Failed sessions, by the error's code.", "code")
        self._session_seconds = self._histogram("fedbroker_session_seconds", "Durations of sessions.")
        self._retries = self._counter("fedbroker_invocation_retries", "Retries of invocations.")
        self._stages = self._counter("fedbroker_stages", "Finished client stages, by outcome.", "outcome")
        self._stage_seconds = self._histogram("fedbroker_stage_seconds", "Durations of client stages.")
        self._phases = self._histogram("fedbroker_phase_seconds", "Durations of the phases of replies.", "phase")
        self._stragglers = self._counter("fedbroker_stragglers", "Silos dropped from a stage, by reason.", "reason")
        self._late_joiners = self._counter("fedbroker_late_joiners", "Silos that took a straggler's place.")
        self._joins = self._counter("fedbroker_silo_joins", "Silos that joined or came back.")
        self._rejections = self._counter("fedbroker_silos_rejected", "Rejections of silos.")
        self._replies = self._counter("fedbroker_silo_replies", "Work items that the silo answered.", "silo")
        self._drops = self._counter("fedbroker_silo_drops", "Work items for which the silo was dropped.", "silo")
        self._seconds = self._counter(
            "fedbroker_silo_phase_seconds", "Seconds of the silo's replies, by phase.", "silo", "phase"
        )
        self._bytes = self._counter(
            "fedbroker_silo_blob_bytes", "Bytes of blobs to the silo and of its outputs.", "silo", "direction"
        )
        self._masked = self._counter(
            "fedbroker_masked_stages", "Finished stages with masked sums, by outcome.", "outcome"
        )
        self._masked_silos = self._counter(
            "fedbroker_masked_silos", "Silos of masked sums: in the sum, or dropped from it.", "part"
        )
        self._unmasking = self._histogram(
            "fedbroker_unmasking_seconds", "Durations of the masks' removal, where silos may drop out."
        )
        self._masking_failures = self._counter(
            "fedbroker_masking_failures", "Steps of masked sums that a silo refused, or whose message was not accepted."
        )
        for outcome in OUTCOMES:
            self._sessions.labels(self._cohort, outcome)
        for outcome in OUTCOMES[:2]:
            self._stages.labels(self._cohort, outcome)
            self._masked.labels(self._cohort, outcome)
        for part in ("sum", "dropped"):
            self._masked_silos.labels(self._cohort, part)
        for reason in get_args(OutcomeName):
            if reason != "answered":
                self._stragglers.labels(self._cohort, reason)
        for phase in PHASES:
            self._phases.labels(self._cohort, phase)
        for alone in (self._session_seconds, self._retries, self._stage_seconds, self._unmasking):
            alone.labels(self._cohort)
        for alone in (self._late_joiners, self._joins, self._rejections, self._masking_failures):
            alone.labels(self._cohort)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(name, help, ("cohort", *labels), registry=self.registry)

    def _histogram(self, name: str, help: str, *labels: str) -> Histogram:
        return Histogram(name, help, ("cohort", *labels), registry=self.registry, buckets=SECONDS)

    def on_event(self, event: Event) -> None:
        """Count an event; must be called on one thread at a time."""
        cohort, details = self._cohort, event.details
        match event.name:
            case "silo_joined":
                self._joins.labels(cohort).inc()
                self._silo(event.silo)
            case "silo_rejected":
                self._rejections.labels(cohort).inc()
            case "session_started":
                self._running.add(event.session)
            case "stage_started":
                self._unanswered[event.session] = details.get("silos", 0)
            case "late_joiner_added":
                self._late_joiners.labels(cohort).inc()
                self._answered(event.session, -1)
            case "silo_answered":
                self._on_reply(event.silo, details)
                self._answered(event.session)
            case "silo_dropped":
                self._stragglers.labels(cohort, details.get("outcome", "")).inc()
                self._drops.labels(cohort, self._silo(event.silo)).inc()
                self._answered(event.session)
            case "stage_finished" | "stage_failed":
                self._unanswered.pop(event.session, None)
                self._stages.labels(cohort, "ok" if event.name == "stage_finished" else "failed").inc()
                self._stage_seconds.labels(cohort).observe(details.get("seconds", 0.0))
                self._on_masked(event.name == "stage_finished", details)
            case "masks_removed":
                self._unmasking.labels(cohort).observe(details.get("seconds", 0.0))
            case "masking_failed":
                self._masking_failures.labels(cohort).inc()
            case "session_finished":
                self._on_session(event.session, details)
            case "invocation_retried":
                self._retries.labels(cohort).inc()
            case _:
                pass

    def _on_reply(self, silo: str, details: EventDetails) -> None:
        cohort, silo = self._cohort, self._silo(silo)
        self._replies.labels(cohort, silo).inc()
        for phase in PHASES:
            seconds = details.get(phase, 0.0)
            self._phases.labels(cohort, phase).observe(seconds)
            self._seconds.labels(cohort, silo, phase).inc(seconds)
        self._bytes.labels(cohort, silo, "out").inc(details.get("bytes_out", 0))
        self._bytes.labels(cohort, silo, "in").inc(details.get("bytes_in", 0))

    def _on_masked(self, is_done: bool, details: EventDetails) -> None:
        """Count a stage's masked sums, if it has any; a sum that failed is over no silo."""
        members = details.get("masked_silos", 0)
        if not members:
            return
        self._masked.labels(self._cohort, "ok" if is_done else "failed").inc()
        if is_done:
            participants = details.get("participants", 0)
            self._masked_silos.labels(self._cohort, "sum").inc(participants)
            self._masked_silos.labels(self._cohort, "dropped").inc(max(0, members - participants))

    def _on_session(self, session: str, details: EventDetails) -> None:
        self._running.discard(session)
        self._unanswered.pop(session, None)
        outcome = details.get("outcome", "")
        self._sessions.labels(self._cohort, outcome).inc()
        self._session_seconds.labels(self._cohort).observe(details.get("seconds", 0.0))
        if outcome == "failed":
            self._errors.labels(self._cohort, details.get("code") or "other").inc()

    def _answered(self, session: str, items: int = 1) -> None:
        if session in self._unanswered:
            self._unanswered[session] -= items

    def _silo(self, name: str) -> str:
        """Return a silo's label and create its series: a counter that appears with its first event hides that event."""
        if name in self._silos:
            return name
        if len(self._silos) >= MOST_SILOS:
            return OTHERS
        self._silos.add(name)
        self._replies.labels(self._cohort, name)
        self._drops.labels(self._cohort, name)
        return name

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics that are read at each scrape; prometheus-client calls it in a thread of its own."""
        labels = {"cohort": self._cohort}
        unanswered = sum(list(self._unanswered.values()))
        statistics = self._statistics() or Statistics((), (), {}, 0, {})
        yield gauge("fedbroker_sessions_running", "Running sessions.", labels, len(self._running))
        yield gauge("fedbroker_work_unanswered", "Work items without a reply.", labels, unanswered)
        yield counter(
            "fedbroker_runtime_restarts", "Restarts of the C++ runtime, after it died.", labels, self._restarts()
        )
        yield counter("fedbroker_late_replies", "Replies and dead letters that came too late.", labels, statistics.late)
        yield from self._of_cohort(statistics)
        yield from connection_metrics(statistics.traffic, labels)

    def _of_cohort(self, statistics: Statistics) -> list[Metric]:
        cohort = self._cohort
        silos = GaugeMetricFamily(
            "fedbroker_silos", "Silos that are present, or were present and are gone.", labels=("cohort", "state")
        )
        silos.add_metric((cohort, "present"), len(statistics.present))
        silos.add_metric((cohort, "gone"), len(statistics.missing))
        up = GaugeMetricFamily(
            "fedbroker_silo_up", "1 if the silo is present, 0 if it is gone.", labels=("cohort", "silo")
        )
        for present, names in ((1, statistics.present), (0, statistics.missing)):
            for name in names:
                if name in self._silos:
                    up.add_metric((cohort, name), present)
        dead = CounterMetricFamily(
            "fedbroker_dead_letters", "Work items that the broker returned, by reason.", labels=("cohort", "reason")
        )
        for reason in get_args(Reason):
            dead.add_metric((cohort, reason), statistics.dead.get(reason, 0))
        return [silos, up, dead]
