"""Read the curves that trackers and TFF's release managers have written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeAlias

from fedbroker.errors import UsageError
from fedbroker.tracking.csv_file import ROUND, read_rows
from fedbroker.tracking.event_files import read_scalars

__all__ = ["Curve", "read_curves"]

Curve: TypeAlias = list[tuple[int, float]]
"""The rounds and values of one metric, in the order of rounds; values are finite."""


def read_curves(path: Path) -> dict[str, Curve]:
    """Return the curve of each metric by its name, in the order of the file.

    Args:
        path: a CSV file with a column ``round``, or a directory of TensorBoard's event files.

    Raises:
        UsageError: it is neither, or has no curve.
    """
    if path.is_dir():
        points = read_scalars(path)
    elif path.is_file():
        names, rows = read_rows(path)
        points = {name: {int(row[ROUND]): _number(row[name]) for row in rows} for name in names if name != ROUND}
    else:
        raise UsageError(f"{path} does not exist", hint="give a CSV file, or a directory of event files")
    curves = {name: [(at, value) for at, value in sorted(own.items()) if _shows(value)] for name, own in points.items()}
    found = {name: curve for name, curve in curves.items() if curve}
    if not found:
        raise UsageError(f"{path} has no numbers", hint="wait for the first round")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # empty, or a list that TFF wrote
        return math.nan


def _shows(value: float) -> bool:
    return math.isfinite(value)
