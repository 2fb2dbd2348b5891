"""The fault matrix as plain data: fault, moment, policy, and the expected result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedbroker.errors import CohortTimeout, DeadlineExceeded, SiloError

Fault = Literal[
    "killed",
    "restarted",
    "runtime killed",
    "both restarted",
    "stopped",
    "runtime stopped",
    "link reset",
    "link silent",
    "leaving",
    "broker restarted",
]
Moment = Literal["forming", "blobs under way", "computing", "reply under way", "between stages"]
PolicyName = Literal["fail", "drop", "replace"]

FAULTS: dict[Fault, str] = {
    "killed": "the silo's agent is killed (SIGKILL) and stays away",
    "restarted": "the agent is killed and started again at once",
    "runtime killed": "the silo's C++ runtime is killed",
    "both restarted": "agent and runtime are killed, the agent is started again",
    "stopped": "the agent is stopped (SIGSTOP): alive, and silent",
    "runtime stopped": "the C++ runtime is stopped (SIGSTOP)",
    "link reset": "the silo's connections to the broker are reset",
    "link silent": "the silo's link passes no bytes for 2.5 s",
    "leaving": "the silo is told to stop (SIGTERM)",
    "broker restarted": "the broker is killed and started again",
}
MOMENTS: dict[Moment, str] = {
    "forming": "as the invocation starts; the cohort still counts on the silo",
    "blobs under way": "a part of the model has reached the silo",
    "computing": "the silo is reading its data",
    "reply under way": "a part of the silo's result has left it",
    "between stages": "the first client stage is complete, the silo keeps values for the second",
}

ALL = (111.0, 111.0)
WITHOUT = (101.0, 101.0)
LEFT_LATER = (111.0, 101.0)
WITH_SPARE = (1101.0, 1101.0)

RECOVERS = 60.0
GIVES_UP = 10.0
REPLACES = 20.0


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        results: the possible sums of both stages: the victim ``ewr`` holds 10, others 1 and 100, the late joiner 1000.
        errors: the possible errors.
        stage_timeout: seconds for each stage.
    """

    fault: Fault
    moment: Moment
    policy: PolicyName
    results: tuple[tuple[float, float], ...] = ()
    errors: tuple[type[Exception], ...] = ()
    stage_timeout: float = RECOVERS

    @property
    def name(self) -> str:
        """Return the cell's name for reports."""
        return f"{self.fault}, {self.moment}, {self.policy}"


EARLY: tuple[Moment, ...] = ("forming", "blobs under way", "computing", "reply under way")
EVERY: tuple[Moment, ...] = (*EARLY, "between stages")
TOO_FEW = (DeadlineExceeded, SiloError)


def _cells() -> list[Cell]:
    cells = []
    for fault in ("killed", "stopped"):
        cells += [Cell(fault, moment, "fail", (), (DeadlineExceeded,), GIVES_UP) for moment in EVERY]
        cells += [Cell(fault, moment, "drop", (WITHOUT,), (), GIVES_UP) for moment in EARLY]
        cells += [Cell(fault, "between stages", "drop", (LEFT_LATER,), (), GIVES_UP)]
    cells += [Cell("killed", moment, "replace", (WITH_SPARE,), (), REPLACES) for moment in EARLY]
    cells += [Cell("killed", "between stages", "replace", (LEFT_LATER,), (), GIVES_UP)]
    for fault in ("restarted", "both restarted", "runtime killed"):
        moments = EARLY if fault != "both restarted" else ("computing", "reply under way")
        # No values were kept: the work runs again, in the same session.
        cells += [Cell(fault, moment, "fail", (ALL,)) for moment in moments]
        # A runtime that dies after the first stage's work loses the kept values.
        late = (LEFT_LATER,) if fault == "runtime killed" else (ALL,)
        cells += [Cell(fault, moment, "drop", late if moment == "reply under way" else (ALL,)) for moment in moments]
        # Kept values are lost: either another attempt with a new membership, or the session continues without the silo.
        cells += [Cell(fault, "between stages", "fail", (ALL,))]
        cells += [Cell(fault, "between stages", "drop", (LEFT_LATER,))]
    cells += [
        Cell("runtime stopped", moment, "fail", (), TOO_FEW, GIVES_UP) for moment in ("computing", "between stages")
    ]
    cells += [Cell("runtime stopped", "computing", "drop", (WITHOUT,), (), GIVES_UP)]
    cells += [Cell("runtime stopped", "between stages", "drop", (LEFT_LATER,), (), GIVES_UP)]
    cells += [Cell("link reset", moment, "fail", (ALL,)) for moment in EVERY]
    cells += [Cell("link silent", moment, "fail", (ALL,)) for moment in EVERY]
    cells += [Cell("leaving", "forming", "fail", (), (CohortTimeout, SiloError))]
    cells += [Cell("leaving", "forming", "drop", (WITHOUT,))]
    cells += [Cell("leaving", moment, "fail", (ALL,)) for moment in EVERY[1:]]
    cells += [Cell("broker restarted", moment, "fail", (ALL,), (), 40.0) for moment in EVERY]
    return cells


IN_THE_CUT = {
    "killed, computing, drop",
    "killed, computing, replace",
    "restarted, computing, fail",
    "restarted, between stages, drop",
    "runtime stopped, computing, drop",
    "link silent, blobs under way, fail",
    "leaving, between stages, fail",
    "broker restarted, computing, fail",
}

CELLS = tuple(_cells())
