"""Metrics in a CSV file: one row for each round."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fedbroker.errors import UsageError
from fedbroker.tracking.tracker import Tracker

__all__ = ["CSV", "ROUND", "read_rows"]

ROUND: Final = "round"
"""The column with the number of the round."""

Row = dict[str, str]


class CSV(Tracker):
    """Metrics of rounds in a CSV file: a column ``round``, and one for each metric.

    Each row is in the file when the call returns. A resumed program continues the file: its first round and all later
    ones replace those that the file has. A new metric adds a column. Calls with the number of the last round add to its
    row.

    Args:
        path: the file; it and its directory are made if they do not exist.

    Raises:
        UsageError: the file exists and has no column ``round``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._names, self._rows = read_rows(self._path) if self._path.exists() else ([ROUND], [])
        self._last: int | None = None  # the last round that this object wrote

    def __call__(self, round: int, metrics: Mapping[str, float]) -> None:
        """See :meth:`Tracker.__call__`.

        Raises:
            OSError: the file cannot be written.
        """
        row = {ROUND: str(round), **{name: repr(float(value)) for name, value in metrics.items()}}
        if round == self._last:
            row = self._rows[-1] | row
        new_names = [name for name in row if name not in self._names]
        follows = self._last is not None and round > self._last
        self._last = round
        if follows and not new_names:
            self._rows.append(row)
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(_text(self._names, [row]))
            return
        self._names += new_names
        self._rows = [*(self._rows if follows else self._before(round)), row]
        self._replace()

    def _before(self, round: int) -> list[Row]:
        return [row for row in self._rows if int(row[ROUND]) < round]

    def _replace(self) -> None:
        """Write the whole file; a reader finds the earlier one or the new one."""
        written = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        written.write_text(_header(self._names) + _text(self._names, self._rows), encoding="utf-8", newline="")
        written.replace(self._path)


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Return the columns' names and the rows of a file; a last row that was not written to its end is left out.

    Raises:
        UsageError: the file has no column ``round``, or a round that is no number.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole), restval="")
    names = list(reader.fieldnames or [ROUND])
    if ROUND not in names:
        raise UsageError(f"{path} has no column {ROUND!r}", hint="give another file")
    rows = [{name: row[name] for name in names} for row in reader]
    for row in rows:
        if not row[ROUND].strip().isdecimal():
            raise UsageError(f"{path} has a round {row[ROUND]!r}, which is no number", hint="give another file")
    return names, rows


def _header(names: Sequence[str]) -> str:
    return _text(names, [dict(zip(names, names, strict=True))])


def _text(names: Sequence[str], rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    csv.DictWriter(buffer, names, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()
