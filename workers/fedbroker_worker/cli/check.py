"""The command ``fedbroker-silo check``: check everything that a silo needs, without joining its cohort."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbroker.console import one_line
from fedbroker.diagnostics import examine, silo_role
from fedbroker.diagnostics.finding import Finding, exit_code_of, print_findings
from fedbroker.diagnostics.runtime import check_runtime
from fedbroker.errors import FedbrokerError
from fedbroker.log import configure
from fedbroker.text import count_text
from fedbroker.wire.messages import Source
from fedbroker_worker.policy.accepted import accepted_file
from fedbroker_worker.policy.audit import AuditLog
from fedbroker_worker.sources.catalog import OpenSource

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from typing import Any

    from rich.table import Table

    from fedbroker.wire.messages import Column
    from fedbroker_worker.config import Settings, SourceSettings

__all__ = ["check_silo"]


@dataclass(frozen=True, slots=True)
class _Findings:
    """The result of each check: findings, or for a source its description or its error."""

    broker: Sequence[Finding]
    runtime: Sequence[Finding]
    policy: Finding
    sources: Mapping[str, Source | FedbrokerError]

    @property
    def all(self) -> list[Finding]:
        return [
            *self.broker,
            *self.runtime,
            self.policy,
            *(_source_finding(name, found) for name, found in self.sources.items()),
        ]

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.all if finding.level == "problem"]


def check_silo(settings: Settings, *, as_json: bool) -> int:
    """Run all checks and print their findings; errors go to standard error, one line each.

    Changes the process's working directory to that of the settings, as the running silo does.

    Returns:
        0 without errors, else the exit code of the first error.
    """
    configure(settings.silo.log_format, "error")
    os.chdir(settings.directory)
    findings = asyncio.run(_try(settings))
    if as_json:
        print(json.dumps(_as_json(settings, findings), indent=2))
    else:
        _print(settings, findings)
    for problem in findings.problems:
        print(f"error: {problem.line}", file=sys.stderr)
    return exit_code_of(findings.all)


async def _try(settings: Settings) -> _Findings:
    names = list(settings.data)
    silo = settings.silo
    sources = (_caught(_source(name, settings.data[name], settings)) for name in names)
    broker, runtime, described = await asyncio.gather(
        examine(
            silo.broker,
            silo_role(silo.cohort, silo.name, enrolled=silo.enrolled),
            renew_seconds=silo.renew_seconds,
        ),
        check_runtime(silo.isolation, memory=silo.runtime_memory_bytes, confinement=silo.runtime_confinement),
        asyncio.gather(*sources),
    )
    return _Findings(broker, runtime, _policy(settings), dict(zip(names, described, strict=True)))


def _policy(settings: Settings) -> Finding:
    """Describe the policy, and check that the audit log and the record of signed work can be written."""
    policy, accepted = settings.policy, accepted_file(settings)
    try:
        if policy.audit_file:
            AuditLog(settings.directory / policy.audit_file).check()
        if accepted is not None:
            accepted.check()
    except FedbrokerError as error:
        return Finding.problem("policy", error)
    return Finding.ok("policy", policy.summary)


async def _source(name: str, source_settings: SourceSettings, settings: Settings) -> Source:
    source = await OpenSource.open(name, source_settings, settings.directory)
    try:
        await source.count()
        return source.announced
    finally:
        await source.close()


async def _caught(opening: Coroutine[Any, Any, Source]) -> Source | FedbrokerError:
    try:
        return await opening
    except FedbrokerError as error:
        return error


def _source_finding(name: str, found: Source | FedbrokerError) -> Finding:
    if isinstance(found, FedbrokerError):
        return Finding.problem("source", found)
    rows = "an unknown number of rows" if found.rows is None else count_text(found.rows, "row")
    return Finding.ok("source", f"{name!r} has {rows}, columns {', '.join(c.name for c in found.columns)}")


def _as_json(settings: Settings, findings: _Findings) -> dict[str, object]:
    silo = settings.silo
    return {
        "silo": silo.name,
        "cohort": silo.cohort,
        "broker": {"url": silo.shown_broker, "error": _first_problem(findings.broker)},
        "runtime": {"isolation": silo.isolation, "error": _first_problem(findings.runtime)},
        "sources": {name: _source_as_json(found) for name, found in findings.sources.items()},
        "findings": [finding.as_json() for finding in findings.all],
    }


def _source_as_json(found: Source | FedbrokerError) -> dict[str, object]:
    if isinstance(found, FedbrokerError):
        return {"rows": None, "clients": None, "columns": [], "error": one_line(found)}
    columns = [{"name": c.name, "dtype": c.dtype, "shape": list(c.shape)} for c in found.columns]
    return {"rows": found.rows, "clients": found.clients, "columns": columns, "error": None}


def _first_problem(findings: Sequence[Finding]) -> str | None:
    """Return the line of the first problem."""
    return next((finding.line for finding in findings if finding.level == "problem"), None)


def _print(settings: Settings, findings: _Findings) -> None:
    from rich.console import Console

    print(f"silo {settings.silo.name} of cohort {settings.silo.cohort}", flush=True)
    print_findings(findings.all)
    if findings.sources:
        console = Console(highlight=False, markup=False)
        console.print()
        console.print(_columns(findings.sources))


def _columns(sources: Mapping[str, Source | FedbrokerError]) -> Table:
    """Return a table with a row for each column; with client counts unless every source has one client."""
    from rich.table import Table
    from rich.text import Text

    several = any(isinstance(found, Source) and found.clients != 1 for found in sources.values())
    numbers = ("rows", "clients") if several else ("rows",)
    table = Table(box=None, pad_edge=False)
    for heading in ("source", *numbers, "column", "dtype"):
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for name, found in sources.items():
        if isinstance(found, FedbrokerError):
            table.add_row(name, *("" for _ in numbers), Text("failed", style="red"))
            continue
        first = (name, f"{found.rows:,}", f"{found.clients:,}")[: 1 + len(numbers)]
        for at, column in enumerate(found.columns):
            table.add_row(*(first if at == 0 else ("" for _ in first)), column.name, _dtype(column))
    return table


def _dtype(column: Column) -> str:
    shape = ",".join("?" if size is None else str(size) for size in column.shape)
    return f"{column.dtype}[{shape}]" if shape else column.dtype
