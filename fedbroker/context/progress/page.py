"""The progress of running invocations as HTML: the program's round, and a bar for each silo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedbroker.context.progress.state import Invocation, RunState, time_text
from fedbroker.html import COMPUTE, DROPPED, QUEUE, TRANSFER, WAITING, Markup, bar, box, element, joined, muted, table
from fedbroker.text import printable

__all__ = ["page_of"]

MAX_SILOS: Final = 12
"""Silos with a bar of their own, those first that are waited for: a display must not push a notebook's cells around."""


def page_of(invocations: Sequence[Invocation], runs: Sequence[RunState], now: float) -> tuple[str, str]:
    """Return the page on these invocations and their runs, and a line in its place."""
    parts = [_run(run, now) for run in runs]
    parts += [part for invocation in invocations for part in _invocation(invocation, now)]
    lines = [run.title() for run in runs] or [f"{one.name}: {one.stage_line()}" for one in invocations]
    return str(box(*parts)), printable("; ".join(lines))


def _run(run: RunState, now: float) -> Markup:
    words = [run.metrics_text(), time_text(now - run.began)]
    done = () if run.rounds is None else (bar([(run.finished / run.rounds, COMPUTE)], run.title()), " ")
    return element("div", element("b", run.title()), " ", *done, muted(" · ".join(filter(None, words))))


def _invocation(invocation: Invocation, now: float) -> list[Markup]:
    words = muted(f" · {time_text(now - invocation.began)}") if not invocation.over else ""
    parts = [element("div", element("b", invocation.name), " ", invocation.stage_line(), words)]
    silos = [*invocation.dropped, *invocation.awaited, *invocation.answered]
    if silos:
        scale = max(0.001, now - invocation.stage_began, *(end.total for end in invocation.replies.values()))
        rows = [_silo(invocation, silo, now, scale) for silo in silos[:MAX_SILOS]]
        parts.append(table(("", "", ""), rows))
        if len(silos) > MAX_SILOS:
            parts.append(element("div", muted(f"and {len(silos) - MAX_SILOS:,} more silos")))
    return parts


def _silo(invocation: Invocation, silo: str, now: float, scale: float) -> tuple[object, object, object]:
    if (reply := invocation.replies.get(silo)) is not None:
        text = f"answered after {time_text(reply.total)}"
        parts = [(reply.queue, QUEUE), (reply.transfer, TRANSFER), (reply.compute, COMPUTE)]
    elif silo in invocation.dropped:
        text, parts = invocation.dropped[silo], [(scale, DROPPED)]
    else:
        waited = now - invocation.stage_began if invocation.phase == "clients" else 0.0
        text, parts = f"working, {time_text(waited)}" if waited else "", [(waited, WAITING)]
    shown = bar([(seconds / scale, colour) for seconds, colour in parts], f"{silo}: {text}")
    return silo, shown, muted(joined([text]))
