"""Work items of earlier processes of a silo, from the end of its audit log."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fedbroker.text import printable
from fedbroker_worker.control.views import ReadView, WorkState, WorkView
from fedbroker_worker.journal.entry import LEFT_IN_FULL, MOST_COLUMNS, MOST_READS, MOST_TEXT
from fedbroker_worker.journal.journal import MOST_WORK
from fedbroker_worker.policy.audit import BEGUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["earlier_work"]


class _Source(msgspec.Struct):
    name: str
    columns: list[str]
    types: list[str] = []


class _Line(msgspec.Struct):
    """The fields of a line that are shown; lines of other kinds lack some of them."""

    time: datetime
    outcome: WorkState
    coordinator: str
    session: str
    stage: int
    clients: int
    sources: list[_Source]
    signed_by: str = ""
    claimed_name: str = ""
    rule: str = ""
    why: str = ""
    releases: list[str] = []
    bytes_out: int = 0


_MASKED: Final = "masked sum of "


def earlier_work(
    lines: Sequence[Mapping[str, Any]], names: Mapping[str, str], *, errors_in_full: bool = False
) -> list[WorkView]:
    """Return work items from lines of an audit log, oldest first; lines that cannot be understood are left out.

    Args:
        lines: the log's last lines, in order.
        names: the names of coordinators by the fingerprints of their keys.
        errors_in_full: the reason of a failure may quote data.
    """
    found: dict[tuple[str, str, int], _Line] = {}
    for fields in lines[-2 * MOST_WORK :]:
        try:
            line = msgspec.convert(fields, _Line)
        except msgspec.ValidationError:
            continue  # a torn line, or one about a masked sum
        found.pop((line.signed_by, line.session, line.stage), None)  # the first line of work that has ended
        found[line.signed_by, line.session, line.stage] = line
    shown = list(found.values())[-MOST_WORK:]
    return [_view(number - len(shown), line, names, errors_in_full) for number, line in enumerate(shown)]


def _view(number: int, line: _Line, names: Mapping[str, str], errors_in_full: bool) -> WorkView:
    at = line.time.timestamp()
    may_quote = errors_in_full and line.outcome == "failed"
    releases = [printable(text, MOST_TEXT) for text in line.releases]
    return WorkView(
        id=number,
        changed=0,
        session=printable(line.session, MOST_TEXT),
        stage=line.stage,
        coordinator=printable(line.coordinator, MOST_TEXT),
        key=printable(line.signed_by, MOST_TEXT),
        key_name=printable(names.get(line.signed_by, ""), MOST_TEXT),
        computation=printable(line.claimed_name, MOST_TEXT),
        received=at,
        clients=line.clients,
        reads=[_read(source) for source in line.sources[:MOST_READS]],
        state=line.outcome,
        since=at,
        seconds=None if line.outcome == BEGUN else 0.0,
        rule=printable(line.rule, MOST_TEXT),
        why=LEFT_IN_FULL if may_quote else printable(line.why, MOST_TEXT),
        releases=releases,
        masked=sum(text.startswith(_MASKED) for text in releases),
        bytes_out=line.bytes_out,
    )


def _read(source: _Source) -> ReadView:
    types = source.types if len(source.types) == len(source.columns) else [""] * len(source.columns)
    columns = [f"{name}: {dtype}" if dtype else name for name, dtype in zip(source.columns, types, strict=True)]
    return ReadView(printable(source.name, MOST_TEXT), [printable(text, MOST_TEXT) for text in columns[:MOST_COLUMNS]])
