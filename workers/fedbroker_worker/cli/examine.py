"""Examine data sources for the command line: open each, read its rows within a deadline, and tell what is wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedbroker.diagnostics.finding import Finding
from fedbroker.errors import FedbrokerError
from fedbroker.text import count_text, seconds_text
from fedbroker_worker.errors import ColumnError, PolicyRefused, Problem, SettingsError, SourceError
from fedbroker_worker.sources.catalog import OpenSource

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from fedbroker.wire.messages import Source
    from fedbroker_worker.config import Settings, SourceSettings
    from fedbroker_worker.policy.rules import PolicySettings
    from fedbroker_worker.sources.profile import SourceProfile

__all__ = ["ExaminedSource", "examine_sources", "no_data"]


@dataclass(frozen=True, slots=True)
class ExaminedSource:
    """The results of one source's checks.

    Attributes:
        name: its name in the settings.
        findings: the results of the checks; at least one.
        announced: its description; None if it cannot be opened.
        profile: the summary of its data; None if they could not be read in time.
    """

    name: str
    findings: tuple[Finding, ...]
    announced: Source | None = None
    profile: SourceProfile | None = None

    @property
    def error(self) -> str | None:
        """The line of the first problem."""
        return next((finding.line for finding in self.findings if finding.level == "problem"), None)


async def examine_sources(
    settings: Settings, names: Collection[str], *, seconds: float, head: int = 0
) -> list[ExaminedSource]:
    """Examine sources concurrently.

    Args:
        settings: the silo's settings.
        names: the sources.
        seconds: time limit for opening one source, and for reading it.
        head: the number of first rows to return.
    """
    return list(await asyncio.gather(*(_examine(settings, name, seconds, head) for name in names)))


def no_data(settings: Settings) -> Finding:
    """Return the warning about a silo without data sources."""
    what = f"{settings.path.name} has no [data.NAME]: computations find no data at this silo"
    hint = """add [data.NAME] with source = "duckdb" and query = "select … from 'file.csv'\""""
    return Finding.warning("source", SettingsError(what, hint=hint))


async def _examine(settings: Settings, name: str, seconds: float, head: int) -> ExaminedSource:
    own = settings.data[name]
    try:
        source = await asyncio.wait_for(OpenSource.open(name, own, settings.directory), seconds)
    except TimeoutError:
        slow = SourceError(
            name,
            f"was not opened within {seconds_text(seconds)}",
            hint="give it more --seconds",
            problem=Problem.UNREADABLE,
        )
        return ExaminedSource(name, (Finding.problem("source", slow),))
    except FedbrokerError as error:
        return ExaminedSource(name, (Finding.problem("source", error),))
    announced = source.announced
    try:
        profile = await source.profile(head, seconds)
    except TimeoutError:
        what = f"was not read to its end within {seconds_text(seconds)}: its values are not checked"
        slow = SourceError(name, what, hint="give it more --seconds", problem=Problem.UNREADABLE)
        return ExaminedSource(name, (_summary(name, announced, None), Finding.warning("source", slow)), announced)
    except FedbrokerError as error:
        return ExaminedSource(name, (Finding.problem("source", error),), announced)
    finally:
        await source.close()
    findings = [_summary(name, announced, profile), *_errors(name, own, profile)]
    findings += _warnings(name, announced, profile, settings.policy)
    return ExaminedSource(name, tuple(findings), announced, profile)


def _summary(name: str, announced: Source, profile: SourceProfile | None) -> Finding:
    count = announced.rows if profile is None else profile.rows
    rows = "an unknown number of rows" if count is None else count_text(count, "row")
    return Finding.ok("source", f"{name!r} has {rows}, columns {', '.join(c.name for c in announced.columns)}")


def _errors(name: str, settings: SourceSettings, profile: SourceProfile) -> list[Finding]:
    """Return a problem for all columns with NULLs together, and one for each other cause."""
    findings: list[Finding] = []
    empty = [column for column in profile.columns if column.nulls]
    if empty:
        first = ColumnError(
            name,
            empty[0].name,
            f"has {count_text(empty[0].nulls or 0, 'NULL')} in {count_text(profile.rows, 'row')}",
            hint=_null_hint(settings, profile.query, [column.name for column in empty]),
            problem=Problem.NO_VALUE,
        )
        found = Finding.problem("source", first)
        if len(empty) > 1:
            listed = ", ".join(f"{column.name!r} ({column.nulls:,})" for column in empty)
            what = f"source {name!r}: columns have NULLs in {count_text(profile.rows, 'row')}: {listed}"
            found = replace(found, what=what)
        findings.append(found)
    others = [error for error in (profile.error, *(column.error for column in profile.columns)) if error is not None]
    findings += [Finding.problem("source", error) for error in others]
    return findings


def _null_hint(settings: SourceSettings, query: str, columns: Sequence[str]) -> str:
    if settings.kind not in ("duckdb", "sql"):
        return 'fill them in, or set nulls = "drop"' if settings.kind == "sheets" else "leave those rows out"
    condition = " and ".join(f"{_identifier(column)} is not null" for column in columns)
    if settings.options.get("query") is None:
        return f'replace file by query = "{query} where {condition}"'
    return f"add `where {condition}` to its query, or coalesce(), or leave the columns out"


def _identifier(name: str) -> str:
    quoted = name.replace('"', '""')
    return name if name.isidentifier() and name.isascii() else f'"{quoted}"'


def _warnings(name: str, announced: Source, profile: SourceProfile, policy: PolicySettings) -> list[Finding]:
    warnings: list[FedbrokerError] = []
    if not profile.rows:
        hint = "check its query and its files; computations get a client without rows"
        warnings.append(SourceError(name, "has no rows", hint=hint, problem=Problem.UNREADABLE))
    if announced.clients < max(1, policy.min_clients):
        what = f"source {name!r} stands for {count_text(announced.clients, 'client')}, and computations may not read it"
        what += f": [policy] min_clients is {policy.min_clients}"
        hint = f"lower min_clients, or name the clients' column by `clients` in [data.{name}]"
        warnings.append(PolicyRefused("min_clients", what, hint=hint))
    if profile.rows < policy.min_rows:
        what = f"source {name!r} has fewer rows than min_rows of [policy], {policy.min_rows:,}"
        warnings.append(PolicyRefused("min_rows", what, hint="lower min_rows, or select more rows in its query"))
    return [Finding.warning("source", warning) for warning in warnings]
