"""Metrics in an MLflow run."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, Final

from fedbroker.errors import UsageError
from fedbroker.tracking.tracker import Tracker

__all__ = ["MLflow"]

# MLflow takes no other characters in the name of a metric.
_OTHER: Final = re.compile(r"[^A-Za-z0-9_\-. :/]")
_LARGEST: Final = 1000
"""Metrics in one request; MLflow takes no more."""


class MLflow(Tracker):
    """Metrics of rounds as metrics of an MLflow run; the round is their step. Needs ``fedbroker[mlflow]``.

    The run is made with the first round, and ends as finished or, with the error of a ``with`` block, as failed. MLflow
    keeps what a resumed program wrote before: its rounds have several values, the newest of which it shows last.

    Args:
        experiment: the experiment's name; it is made if it does not exist.
        tracking_uri: of the server, such as ``https://mlflow.example``; None for MLflow's own setting,
            ``MLFLOW_TRACKING_URI``.
        run_name: the name of the run; None for one that MLflow chooses.
        run_id: the id of an earlier run to continue; None for a new run.
        params: parameters of the program to keep with the run.

    Raises:
        UsageError: mlflow is not installed.
    """

    def __init__(
        self,
        experiment: str,
        *,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
        params: Mapping[str, object] | None = None,
    ) -> None:
        try:
            import mlflow
        except ModuleNotFoundError:
            raise UsageError("mlflow is not installed", hint="pip install 'fedbroker[mlflow]'") from None
        self._mlflow: Any = mlflow
        self._client: Any = self._mlflow.MlflowClient(tracking_uri=tracking_uri)
        self._experiment = experiment
        self._run_name = run_name
        self._params = dict(params or {})
        self._run_id = run_id
        self._open = False

    @property
    def run_id(self) -> str | None:
        """The id of the run; None before the first round of a new one."""
        return self._run_id

    def __call__(self, round: int, metrics: Mapping[str, float]) -> None:
        """See :meth:`Tracker.__call__`.

        Raises:
            mlflow.exceptions.MlflowException: the server cannot be reached, or refuses the metrics.
        """
        if not self._open:
            self._start()
        now = int(time.time() * 1000)  # MLflow counts in milliseconds
        metric = self._mlflow.entities.Metric
        entities = [metric(_OTHER.sub("_", name), value, now, round) for name, value in metrics.items()]
        for at in range(0, len(entities), _LARGEST):
            self._client.log_batch(self._run_id, metrics=entities[at : at + _LARGEST])

    def close(self, error: BaseException | None = None) -> None:
        """See :meth:`Tracker.close`."""
        if self._open:
            self._open = False
            self._client.set_terminated(self._run_id, "FINISHED" if error is None else "FAILED")

    def _start(self) -> None:
        if self._run_id is None:
            found = self._client.get_experiment_by_name(self._experiment)
            number = found.experiment_id if found else self._client.create_experiment(self._experiment)
            self._run_id = self._client.create_run(number, run_name=self._run_name).info.run_id
        else:
            self._client.update_run(self._run_id, status="RUNNING")
        self._open = True
        for name, value in self._params.items():
            self._client.log_param(self._run_id, name, value)
