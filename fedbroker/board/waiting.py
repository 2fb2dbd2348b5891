"""Sentences that say why a session waits. Plain functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fedbroker.board.silos import Silo
from fedbroker.text import count_text

__all__ = ["joined", "waits_for_replies", "waits_for_silos"]

MAX_NAMED: Final = 3
"""Silos that a sentence names: more would not be read."""

GONE, LATE, UNREAD, ASKED, WORKING = range(5)
"""The order in which a sentence names silos: first those that need a look."""


def waits_for_replies(waiting: Sequence[tuple[str, float, Silo | None]], missing: int, now: float) -> str:
    """Return why a client stage waits.

    Args:
        waiting: name, time of its work item, and state of each silo without a reply; not empty.
        missing: number of replies that the stage needs before it may close.
        now: the time.
    """
    reasons = sorted((_reason(asked, silo, now), name) for name, asked, silo in waiting)
    parts = [f"{name} ({reason})" if reason else name for (_, _, reason), name in reasons]
    if missing <= 0:
        return f"enough silos have answered; for a moment more it waits for {joined(parts)}"
    if missing < len(waiting):
        return f"waiting for {_replies(missing)} of {joined(parts, 'or')}"
    return f"waiting for {joined(parts)}"


def waits_for_silos(present: Sequence[str], wanted: int) -> str:
    """Return why an invocation has not started."""
    more = count_text(max(1, wanted - len(present)), "more silo")
    if not present:
        return f"waiting for {more}: none is present, {wanted} {_are(wanted)} needed"
    return f"waiting for {more}: {joined(present)} {_are(len(present))} present, {wanted} {_are(wanted)} needed"


def joined(parts: Sequence[str], word: str = "and") -> str:
    """Return the first parts as an enumeration, and the number of the others."""
    shown = list(parts[:MAX_NAMED])
    if len(parts) > MAX_NAMED + 1:
        shown.append(f"{len(parts) - MAX_NAMED:,} more")
    elif len(parts) > MAX_NAMED:
        shown.append(parts[MAX_NAMED])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}"


def _reason(asked: float, silo: Silo | None, now: float) -> tuple[int, float, str]:
    """Return a rank, an order within it, and what the silo is known to do."""
    since = now - asked
    if silo is None:
        return ASKED, -since, f"asked {_ago(since)}"
    if silo.state == "gone":
        text = "it has left the cohort" if silo.left else f"gone: last heard of {_ago(now - silo.seen)}"
        return GONE, silo.seen, text
    if silo.state == "late":
        return LATE, silo.seen, f"late: last heard of {_ago(now - silo.seen)}"
    if silo.seen <= asked:  # it has not announced anything since
        return ASKED, -since, f"asked {_ago(since)}"
    if silo.message.in_flight == 0:
        return UNREAD, -since, f"not picked up its work for {_span(since)}"
    return WORKING, -since, f"computing for {_span(since)}"


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _replies(number: int) -> str:
    return "1 more reply" if number == 1 else f"{number:,} more replies"
