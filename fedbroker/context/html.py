"""A context as HTML, for notebooks: its cohort, its rules, and the last session."""

from __future__ import annotations

from fedbroker.context.settings import Settings
from fedbroker.html import box, element, muted, table
from fedbroker.session.report import SessionReport, Statistics
from fedbroker.text import count_text, seconds_text, without_secrets

__all__ = ["context_html"]

MAX_NAMES = 20
"""Names of silos in a line."""


def context_html(
    kind: str, settings: Settings, *, closed: bool, statistics: Statistics | None, last: SessionReport | None
) -> str:
    """Return a context's settings and state; no password is in it."""
    state = "closed" if closed else "not connected" if statistics is None else "connected"
    rows = [("broker", without_secrets(settings.url)), ("silos", _needed(settings)), ("messages", _security(settings))]
    if statistics is not None and not closed:
        rows.append(("present", _names(statistics.present)))
        if statistics.missing:
            rows.append(("missing", _names(statistics.missing)))
    if last is not None:
        ended = f"error: {last.error}" if last.error else seconds_text(last.seconds)
        words = [last.origin.computation, count_text(len(last.participants), "participant"), ended]
        rows.append(("last session", " · ".join(filter(None, words))))
    title = element("div", element("b", kind), " ", muted(f"cohort {settings.cohort} · {state}"))
    return str(box(title, table(("", ""), [(muted(name), text) for name, text in rows])))


def _needed(settings: Settings) -> str:
    most = "" if settings.max_silos is None else f", at most {settings.max_silos}"
    stragglers = "all must answer" if settings.stragglers == "fail" else f"stragglers: {settings.stragglers}"
    return f"at least {settings.min_silos}{most}; {stragglers}"


def _security(settings: Settings) -> str:
    return "not signed" if settings.keys is None else "signed, or signed and sealed, as the file of keys says"


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more if names else "none"
