"""The command ``fedbroker-silo audit``: print and verify the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedbroker.errors import ConfigError
from fedbroker.text import printable
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.policy.audit import BEGUN, Audit, read_audit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedbroker_worker.config import Settings

T = TypeVar("T")

__all__ = ["print_audit", "rows"]


def print_audit(where: Settings | Path, *, after: str = "", last: int | None = None, as_json: bool = False) -> None:
    """Print a log, then report whether it is intact.

    Args:
        where: the silo's settings, or the file.
        after: the hash of the last line of the previous file.
        last: the number of lines to print; None for all.
        as_json: print JSON.

    Raises:
        ConfigError: the silo writes no log, or the file cannot be read.
        AuditDamaged: a line was changed, removed or cut short.
    """
    found = read_audit(_raw(_path(where)), after)
    if as_json:
        problem = found.problem.what if found.problem else None
        lines, unfinished = _last(found.lines, last), list(found.unfinished)
        print(json.dumps({"lines": lines, "unfinished": unfinished, "last": found.last, "problem": problem}))
    else:
        _print(_last(rows(found), last), found)
    if found.problem:
        raise found.problem


def _last(lines: Sequence[T], count: int | None) -> list[T]:
    return list(lines if count is None else lines[max(0, len(lines) - count) :])


def rows(found: Audit) -> list[list[str]]:
    """Return the table cells of each work item: from its last line, or from its first if it has no last line."""
    unfinished = {id(line) for line in found.unfinished}
    return [_cells(line) for line in found.lines if line.get("outcome") != BEGUN or id(line) in unfinished]


def _path(where: Settings | Path) -> Path:
    if isinstance(where, Path):
        return where
    if not where.policy.audit_file:
        raise SettingsError("this silo writes no audit log", hint='set audit_file = "audit.log" in [policy]')
    return where.directory / where.policy.audit_file


def _raw(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name the audit log with --file") from None


def _print(lines: Sequence[Sequence[str]], found: Audit) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("time", "coordinator", "session", "stage", "sources", "clients", "outcome", "bytes out"):
        numbers = ("stage", "clients", "bytes out")
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    if lines:
        console.print(table)
    if found.problem:
        return
    unfinished = f"; {len(found.unfinished)} work items were begun, not ended" if found.unfinished else ""
    console.print(
        f"{len(found.lines)} lines, none missing or changed{unfinished}; the last one's hash is {found.last or 'none'}"
    )


def _cells(line: Mapping[str, Any]) -> list[str]:
    plain = [line.get(key, "") for key in ("time", "coordinator", "session", "stage")]
    cells = [*plain, _sources(line), line.get("clients", ""), _outcome(line), line.get("bytes_out", "")]
    return [printable(str(cell)) for cell in cells]


def _outcome(line: Mapping[str, Any]) -> str:
    outcome = line.get("outcome")
    if outcome == BEGUN:
        return "begun, not ended"
    return f"{outcome} ({line['rule']})" if line.get("rule") else str(outcome)


def _sources(line: Mapping[str, Any]) -> str:
    """Return the sources and their columns; any other content unchanged, because the log may have been edited."""
    sources = line.get("sources", ())
    try:
        return ", ".join(f"{source['name']}({', '.join(source['columns'])})" for source in sources)
    except (TypeError, KeyError):
        return str(sources)
