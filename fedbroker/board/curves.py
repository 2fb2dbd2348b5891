"""Curves of the metrics that programs report after each round. Plain state, bounded in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, cast

from fedbroker.board.views import CurveView
from fedbroker.wire.events import CohortEvent

__all__ = ["Curves"]

MAX_RUNS: Final = 50
MAX_METRICS: Final = 100
"""Metrics of one run; further ones are not shown."""
MAX_POINTS: Final = 5000
"""Points of one metric; the oldest ones are forgotten first."""

Point = tuple[int, float]


@dataclass(slots=True)
class _Run:
    program: str
    cohort: str
    coordinator: str
    points: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])


class Curves:
    """The metrics of the newest runs.

    Attributes:
        removed: runs and metrics that are no longer shown, until taken.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._new: dict[tuple[str, str], list[Point]] = {}
        self.removed: list[tuple[str, str]] = []

    def round_finished(self, event: CohortEvent) -> None:
        """Add a round's metrics."""
        run_id, number, metrics = (event.details.get(name) for name in ("run", "round", "metrics"))
        if not (isinstance(run_id, str) and run_id and isinstance(number, int) and isinstance(metrics, dict)):
            return
        run = self._runs.get(run_id)
        if run is None:
            if len(self._runs) >= MAX_RUNS:
                self._forget(next(iter(self._runs)))
            run = self._runs[run_id] = _Run(str(event.details.get("program", "")), event.cohort, event.coordinator)
        if run.coordinator != event.coordinator:
            return
        for metric, value in cast("dict[str, object]", metrics).items():
            if isinstance(value, int | float) and (metric in run.points or len(run.points) < MAX_METRICS):
                points = run.points.setdefault(metric, [])
                points.append((number, float(value)))
                del points[:-MAX_POINTS]
                self._new.setdefault((run_id, metric), []).append(points[-1])

    def views(self) -> list[CurveView]:
        """Return all curves."""
        return [
            self._view(run_id, metric, points)
            for run_id, run in self._runs.items()
            for metric, points in run.points.items()
        ]

    def take_new(self) -> list[CurveView]:
        """Return the points since the last call."""
        new, self._new = self._new, {}
        return [self._view(run_id, metric, points) for (run_id, metric), points in new.items()]

    def _view(self, run_id: str, metric: str, points: list[Point]) -> CurveView:
        run = self._runs[run_id]
        return CurveView(run=run_id, program=run.program, cohort=run.cohort, metric=metric, points=list(points))

    def _forget(self, run_id: str) -> None:
        for metric in self._runs.pop(run_id).points:
            self._new.pop((run_id, metric), None)
            self.removed.append((run_id, metric))
