"""The command ``fedbroker-silo audit``: print and verify the audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fedbroker.errors import ConfigError, UsageError
from fedbroker.narrowing import is_list
from fedbroker.text import bytes_text, printable
from fedbroker_worker.config import AuditSettings
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.policy.audit import BEGUN, Audit, read_audit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console


T = TypeVar("T")

__all__ = ["print_audit", "rows"]

TIME: Final = 16
"""The characters of a time up to its minutes; `--show` prints all of it."""

HEADINGS: Final = ("line", "time (UTC)", "coordinator", "reads", "outcome", "out")


def print_audit(
    where: AuditSettings | Path,
    *,
    after: str = "",
    last: int | None = None,
    show: int | None = None,
    as_json: bool = False,
) -> None:
    """Print a log, then report whether it is intact.

    Args:
        where: the settings, or the file.
        after: the hash of the last line of the previous file.
        last: the number of lines to print; None for all.
        show: print only this line, counted from 1, in full.
        as_json: print JSON.

    Raises:
        ConfigError: the silo writes no log, or the file cannot be read, or has no such line.
        AuditDamaged: a line was changed, removed or cut short.
    """
    settings = where if isinstance(where, AuditSettings) else AuditSettings(where, {})
    found = read_audit(_raw(_path(settings)), after)
    if show is not None:
        _show(_chosen(found, show), show, settings.names, as_json=as_json)
    elif as_json:
        problem = found.problem.what if found.problem else None
        lines, unfinished = _last(found.lines, last), list(found.unfinished)
        print(json.dumps({"lines": lines, "unfinished": unfinished, "last": found.last, "problem": problem}))
    else:
        _print(_last(rows(found, settings.names), last), found)
    if found.problem:
        raise found.problem


def _last(lines: Sequence[T], count: int | None) -> list[T]:
    return list(lines if count is None else lines[max(0, len(lines) - count) :])


def rows(found: Audit, names: Mapping[str, str] | None = None) -> list[list[str]]:
    """Return the table cells of each work item: from its last line, or from its first if it has no last line.

    Args:
        found: the log.
        names: the names of coordinators by the fingerprint of their key.
    """
    unfinished = {id(line) for line in found.unfinished}
    return [
        _cells(number, line, names or {})
        for number, line in enumerate(found.lines, 1)
        if line.get("outcome") != BEGUN or id(line) in unfinished
    ]


def _path(settings: AuditSettings) -> Path:
    if settings.file is None:
        raise SettingsError("this silo writes no audit log", hint='set audit_file = "audit.log" in [policy]')
    return settings.file


def _raw(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="name the audit log with --file") from None


def _chosen(found: Audit, number: int) -> Mapping[str, Any]:
    if number > len(found.lines):
        raise UsageError(f"the audit log has no line {number}", hint=f"its last one is {len(found.lines)}")
    return found.lines[number - 1]


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def _print(lines: Sequence[Sequence[str]], found: Audit) -> None:
    from rich.table import Table

    console = _console()
    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        right, whole = heading in ("line", "out"), heading in ("line", "time (UTC)", "out")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=whole)
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


def _cells(number: int, line: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    size = line.get("bytes_out", "")
    cells = [
        str(number),
        str(line.get("time", ""))[:TIME].replace("T", " "),
        _coordinator(line, names),
        ", ".join(_sources(line)),
        _outcome(line),
        bytes_text(size) if type(size) is int and size >= 0 else str(size),
    ]
    return [printable(cell) for cell in cells]


def _coordinator(line: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return the coordinator's name by its key; without a name, its key's fingerprint; without a key, its id."""
    key = str(line.get("signed_by", ""))
    return names.get(key) or key or f"{line.get('coordinator', '')} (unsigned)"


def _claimed(line: Mapping[str, Any]) -> str:
    """Return the name that the coordinator gave the computation; nothing at the silo confirms it."""
    return str(line.get("claimed_name", ""))


def _outcome(line: Mapping[str, Any]) -> str:
    outcome = line.get("outcome")
    if outcome == BEGUN:
        return "begun, not ended"
    return f"{outcome} ({line['rule']})" if line.get("rule") else str(outcome)


def _sources(line: Mapping[str, Any], *, types: bool = False) -> list[str]:
    """Return each source with its columns; any other content unchanged, because the log may have been edited."""
    sources = line.get("sources", ())
    try:
        return [f"{source['name']}({', '.join(_columns(source, types))})" for source in sources]
    except (TypeError, KeyError):
        return [str(sources)]


def _columns(source: Mapping[str, Any], types: bool) -> list[str]:
    columns = list(map(str, source["columns"]))
    dtypes = source.get("types")
    if types and is_list(dtypes) and len(dtypes) == len(columns):
        return [f"{name}: {dtype}" for name, dtype in zip(columns, dtypes, strict=True)]
    return columns


def _show(line: Mapping[str, Any], number: int, names: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(line))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in [("line", str(number)), *_facts(line, names)]:
        table.add_row(label, printable(text, None))
    _console().print(table)


def _facts(line: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield label and text of each fact in a line; further texts of one label have an empty one."""
    key = str(line.get("signed_by", ""))
    yield "time", str(line.get("time", ""))
    yield "coordinator", f"{_coordinator(line, names)}, id {line.get('coordinator', '')}"
    yield "key", key or "none: the work was not signed"
    yield "session", f"{line.get('session', '')}, client stage {line.get('stage', '')}"
    yield "computation", f"{_claimed(line)} (claimed by the coordinator)" if _claimed(line) else "no name"
    yield "clients", str(line.get("clients", ""))
    yield from _listed("reads", _sources(line, types=True), "nothing")
    yield "outcome", _outcome(line)
    if line.get("step"):
        yield "step", f"{line['step']}, a notice about a masked sum"
    if line.get("why"):
        yield "why", str(line["why"])
    if line.get("outcome") == BEGUN:
        return
    released = line.get("releases")
    for silos in ("survivors", "dropped"):
        named = line.get(silos)
        if is_list(named):
            yield silos, ", ".join(map(str, named)) or "none"
    yield from _listed("releases", list(map(str, released)) if is_list(released) else [], "nothing, or unknown")
    yield "bytes out", str(line.get("bytes_out", ""))
    for label, name in (("outputs", "outputs"), ("SHA-256", "computations"), ("nonces", "nonces")):
        found = line.get(name)
        yield from _listed(label, list(map(str, found)) if is_list(found) else [], "none")


def _listed(label: str, texts: Sequence[str], none: str) -> Iterator[tuple[str, str]]:
    for at, text in enumerate(texts or [none]):
        yield label if at == 0 else "", text
