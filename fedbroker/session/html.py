"""Reports and cohorts as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from fedbroker.html import COMPUTE, DROPPED, QUEUE, TRANSFER, Markup, bar, box, element, joined, muted, table
from fedbroker.text import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from fedbroker.session.report import SessionReport, SiloReport, StageReport
    from fedbroker.session.roster import Member

__all__ = ["members_html", "report_html", "stage_html"]

MAX_ROWS: Final = 50
"""Rows of a table: a screen or two, even with a thousand silos."""

_PHASES: Final = (("queue", QUEUE), ("transfer", TRANSFER), ("compute", COMPUTE))
_HEAD: Final = ("silo", "outcome", "", "after", *(name for name, _ in _PHASES), "out", "in", "why")
_NUMBERS: Final = range(3, 9)
_SOURCES: Final = 8
"""Data sources of a silo that are named."""


def report_html(report: SessionReport) -> str:
    """Return a session's report: a table for each client stage, with a bar for each silo."""
    origin = report.origin
    about = [f"{origin.program}, round {origin.round}" if origin.program else "", origin.computation]
    counts = [count_text(len(report.members), "silo"), count_text(len(report.stages), "client stage")]
    words = [*about, f"cohort {report.cohort}", *counts, seconds_text(report.seconds)]
    parts = [element("div", element("b", f"session {report.session}"), " ", muted(" · ".join(filter(None, words))))]
    parts += [_stage(stage) for stage in report.stages]
    notes = [f"error: {report.error}"] if report.error else []
    notes += [f"late replies: {report.late}"] if report.late else []
    notes += [f"forged messages: {len(report.forged)}"] if report.forged else []
    parts += [element("div", note) for note in notes]
    return str(box(*parts, _legend() if report.stages else ""))


def stage_html(stage: StageReport) -> str:
    """Return one stage's table, with a bar for each silo."""
    return str(box(_stage(stage), _legend()))


def members_html(title: str, members: Sequence[Member]) -> str:
    """Return the silos of a cohort and their data sources."""
    rows = [(member.name, _sources(member), member.version, member.incarnation[:8]) for member in members[:MAX_ROWS]]
    head = element("div", element("b", title), " ", muted(count_text(len(members), "silo")))
    return str(box(head, table(("silo", "data", "version", "incarnation"), rows), _more(len(members))))


def _stage(stage: StageReport) -> Markup:
    # Dropped silos first, then the slowest: a reader looks for these.
    silos = sorted(stage.silos, key=lambda silo: (silo.outcome == "answered", -silo.at))
    scale = max((silo.at for silo in silos), default=0.0) or 1.0
    words = [f"{len(stage.participants)} of {count_text(len(silos), 'silo')} answered, {stage.needed} needed"]
    words += [seconds_text(stage.seconds)]
    words += [f"masked sums: {stage.masking}"] if stage.masking else []
    title = element("div", f"client stage {stage.stage} ", muted(" · ".join(words)))
    rows = table(_HEAD, [_row(silo, scale) for silo in silos[:MAX_ROWS]], _NUMBERS)
    return joined((title, rows, _more(len(silos))))


def _row(silo: SiloReport, scale: float) -> tuple[object, ...]:
    seconds = [getattr(silo, name) for name, _ in _PHASES]
    if silo.outcome == "answered":
        parts = [(one / scale, colour) for one, (_, colour) in zip(seconds, _PHASES, strict=True)]
        said = ", ".join(f"{name} {seconds_text(one)}" for one, (name, _) in zip(seconds, _PHASES, strict=True))
    else:
        parts, said = [(silo.at / scale, DROPPED)], f"{silo.outcome} after {seconds_text(silo.at)}"
    outcome = silo.outcome if silo.outcome == "answered" else element("b", silo.outcome)
    why = f"{silo.why} (in place of {silo.in_place_of})" if silo.in_place_of else silo.why
    times = map(seconds_text, (silo.at, *seconds))
    sizes = map(bytes_text, (silo.bytes_out, silo.bytes_in))
    return silo.silo, outcome, bar(parts, f"{silo.silo}: {said}"), *times, *sizes, why


def _legend() -> Markup:
    swatches = [
        joined((bar([(1.0, colour)], name, 10), f" {name}")) for name, colour in (*_PHASES, ("dropped", DROPPED))
    ]
    return element("div", muted(joined(swatches, " &nbsp; ")))


def _more(rows: int) -> Markup:
    return element("div", muted(f"and {rows - MAX_ROWS:,} more")) if rows > MAX_ROWS else Markup()


def _sources(member: Member) -> str:
    shown = [
        f"{name} ({'? rows' if source.rows is None else count_text(source.rows, 'row')})"
        for name, source in list(member.sources.items())[:_SOURCES]
    ]
    more = len(member.sources) - _SOURCES
    return ", ".join([*shown, *([f"and {more:,} more"] if more > 0 else [])])
