"""Trackers keep the metrics of a run's rounds: as a CSV file, for TensorBoard, or in MLflow.

A tracker is a function ``on_round(round, metrics)``: pass it to ``context.run(..., on_round=...)`` or to
:class:`fedbroker.program.TrackingReleaseManager`. None of them imports TensorFlow; packages of an extra are imported by
the tracker that needs them.
"""

from __future__ import annotations

from fedbroker.tracking.csv_file import CSV
from fedbroker.tracking.event_files import TensorBoard
from fedbroker.tracking.mlflow_run import MLflow
from fedbroker.tracking.tracker import Tracker

__all__ = ["CSV", "MLflow", "TensorBoard", "Tracker"]
