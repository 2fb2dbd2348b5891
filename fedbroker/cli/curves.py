"""``fedbroker curves``: plots of a program's metrics in the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts

from fedbroker.cli.common import Json, print_json
from fedbroker.errors import UsageError
from fedbroker.text import printable
from fedbroker.tracking.curves import Curve, read_curves

__all__ = ["curves"]

_HEIGHT: Final = 14
_TICKS: Final = 6  # numbers under a plot, which fit in the narrowest one
_LONGEST_NAME: Final = 60

Cells = Annotated[int | None, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=20, lte=1000))]
Lines = Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=5, lte=1000))]


def curves(
    path: Path,
    /,
    *,
    metric: Annotated[tuple[str, ...], cyclopts.Parameter(negative="")] = (),
    width: Cells = None,
    height: Lines = _HEIGHT,
    json: Json = False,
) -> None:
    """Print a plot of each metric.

    Parameters
    ----------
    path
        The CSV file, or the directory of event files.
    metric
        The metric to plot, by its name or the last part of it; may be given several times. All of them if not given.
    width
        Columns of a plot; the terminal's if not given, 80 where the output is no terminal.
    height
        Lines of a plot.
    json
        Print the rounds and values as JSON, by metric.
    """
    chosen = _chosen(read_curves(path), metric)
    if json:
        print_json(chosen)
        return
    columns = width or (shutil.get_terminal_size().columns if sys.stdout.isatty() else 80)
    for name, curve in chosen.items():
        print(_plot(name, curve, columns, height), end="")


def _chosen(found: Mapping[str, Curve], wanted: Sequence[str]) -> dict[str, Curve]:
    if not wanted:
        return dict(found)
    chosen: dict[str, Curve] = {}
    for one in wanted:
        named = {name: curve for name, curve in found.items() if name == one or name.endswith(f"/{one}")}
        if not named:
            raise UsageError(f"no metric is named {one!r}", hint=f"available: {', '.join(found)}")
        chosen |= named
    return chosen


def _plot(name: str, curve: Curve, columns: int, lines: int) -> str:
    import plotext

    rounds, values = [at for at, _ in curve], [value for _, value in curve]
    plotting: Any = plotext  # it has no types
    plotting.terminal.limit(False, False)  # else its own idea of the terminal's size bounds a plot
    figure = plotting.figure
    figure.clear()
    figure.plot_size(columns, lines)
    figure.theme("simple")  # keeps the terminal's background
    signal = figure.signal(rounds, values, marker="braille")
    if len(curve) > 1:
        signal.lines()
    figure.draw(signal)
    ticks = _ticks(rounds[0], rounds[-1])
    figure.ruler("x").ticks(ticks, [str(tick) for tick in ticks])
    figure.title(f"{printable(name, _LONGEST_NAME)}: {values[-1]:.6g} in round {rounds[-1]}")
    built = figure.build()
    text: str = built.string(colorless=not sys.stdout.isatty() or bool(os.environ.get("NO_COLOR")))
    return text if text.endswith("\n") else f"{text}\n"


def _ticks(first: int, last: int) -> list[int]:
    """Return whole numbers of rounds, the first and the last among them."""
    steps = max(1, min(_TICKS - 1, last - first))
    return list(dict.fromkeys(first + round((last - first) * step / steps) for step in range(steps + 1)))
