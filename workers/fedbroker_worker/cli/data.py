"""The command ``fedbroker-silo data``: a preview of the silo's own data, on its own terminal."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Final

from fedbroker.diagnostics.finding import exit_code_of
from fedbroker.log import configure
from fedbroker.text import count_text, printable
from fedbroker_worker.cli.examine import examine_sources, no_data
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.options import nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fedbroker_worker.cli.examine import ExaminedSource
    from fedbroker_worker.config import Settings
    from fedbroker_worker.sources.profile import ColumnProfile, SourceProfile

__all__ = ["print_data"]

WIDEST: Final = 40
"""The most characters of a cell in a table, so that a long text leaves room for other columns; JSON has all of it."""


def print_data(settings: Settings, name: str | None, *, head: int, seconds: float, as_json: bool) -> int:
    """Print a summary and the first rows of one source, or of all sources; errors go to standard error.

    Args:
        settings: the silo's settings.
        name: the source; None for all of them.
        head: the number of first rows.
        seconds: time limit for reading one source.
        as_json: print JSON.

    Returns:
        0 without errors, else the exit code of the first error.

    Raises:
        SettingsError: the source does not exist.
    """
    if name is not None and name not in settings.data:
        hint = nearest(name, settings.data) if settings.data else "add it to the settings"
        raise SettingsError(f"[data.{printable(name)}] does not exist in {settings.path.name}", hint=hint)
    configure(settings.silo.log_format, "error")
    os.chdir(settings.directory)
    names = list(settings.data) if name is None else [name]
    sources = asyncio.run(examine_sources(settings, names, seconds=seconds, head=head))
    if as_json:
        print(json.dumps({"sources": {source.name: _as_json(source) for source in sources}}, indent=2))
    else:
        _print(sources)
    findings = [finding for source in sources for finding in source.findings] or [no_data(settings)]
    for finding in findings:
        if finding.level != "ok":
            level = "error" if finding.level == "problem" else "warning"
            print(f"{level}: {printable(finding.line)}", file=sys.stderr)
    return exit_code_of(findings)


def _as_json(source: ExaminedSource) -> dict[str, object]:
    profile = source.profile
    if profile is None:
        return {"error": source.error}
    names = [column.name for column in profile.columns]
    return {
        "query": profile.query,
        "rows": profile.rows,
        "clients": 1 if profile.by_client is None else len(profile.by_client),
        "rows_by_client": [profile.rows] if profile.by_client is None else list(profile.by_client),
        "columns": [
            {
                "name": column.name,
                "type": column.type_text,
                "nulls": column.nulls,
                "min": column.least,
                "max": column.greatest,
                "error": None if column.error is None else str(column.error),
            }
            for column in profile.columns
        ],
        "head": [dict(zip(names, row, strict=True)) for row in profile.head],
        "error": source.error,
    }


def _print(sources: list[ExaminedSource]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for at, source in enumerate(sources):
        if at:
            console.print()
        if source.profile is None:
            console.print(f"{source.name}: not read")
        else:
            _print_profile(console, source.name, source.profile)


def _print_profile(console: Console, name: str, profile: SourceProfile) -> None:
    console.print(f"{name}: {count_text(profile.rows, 'row')}, {_clients(profile)}")
    if profile.query:
        console.print(printable(" ".join(profile.query.split()), 2000))
    console.print()
    console.print(_columns(profile.columns))
    if profile.head:
        console.print(f"\nfirst {count_text(len(profile.head), 'row')}:")
        console.print(_head(profile))


def _clients(profile: SourceProfile) -> str:
    if profile.error is not None:
        return "rows that cannot be dealt to clients"
    if profile.by_client is None:
        return "1 client"
    sizes = sorted(profile.by_client)
    if not sizes:
        return "0 clients"
    middle = sizes[len(sizes) // 2]
    return f"{count_text(len(sizes), 'client')} with {sizes[0]:,} to {sizes[-1]:,} rows (median {middle:,})"


def _columns(columns: tuple[ColumnProfile, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("column", "type", "NULLs", "min", "max"):
        table.add_column(heading, justify="right" if heading == "NULLs" else "left", overflow="fold")
    for column in columns:
        nulls = "?" if column.nulls is None else f"{column.nulls:,}"
        table.add_row(*map(_cell, (column.name, column.type_text, nulls, column.least, column.greatest)))
    return table


def _head(profile: SourceProfile) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in profile.columns:
        table.add_column(_cell(column.name), overflow="fold")
    for row in profile.head:
        table.add_row(*map(_cell, row))
    return table


def _cell(text: str | None) -> str:
    return "NULL" if text is None else printable(text, WIDEST)
