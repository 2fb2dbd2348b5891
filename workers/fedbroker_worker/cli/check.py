"""The command ``fedbroker-silo check``: check everything that a silo needs, without joining its cohort."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbroker.diagnostics import examine, silo_role
from fedbroker.diagnostics.finding import Finding, exit_code_of, print_findings
from fedbroker.diagnostics.runtime import check_runtime
from fedbroker.errors import FedbrokerError
from fedbroker.log import configure
from fedbroker_worker.cli.examine import examine_sources, no_data
from fedbroker_worker.cli.masked_sums import masked_sums
from fedbroker_worker.cli.secret_files import exposed_secrets
from fedbroker_worker.policy.accepted import accepted_file
from fedbroker_worker.policy.audit import AuditLog
from fedbroker_worker.sources.profile import type_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from fedbroker_worker.cli.examine import ExaminedSource
    from fedbroker_worker.config import Settings

__all__ = ["check_silo"]


@dataclass(frozen=True, slots=True)
class _Findings:
    """The results of the checks."""

    broker: Sequence[Finding]
    runtime: Sequence[Finding]
    policy: Sequence[Finding]
    masking: Finding
    sources: Sequence[ExaminedSource]
    settings: Sequence[Finding]

    @property
    def all(self) -> list[Finding]:
        return [
            *self.broker,
            *self.runtime,
            *self.policy,
            self.masking,
            *(finding for source in self.sources for finding in source.findings),
            *self.settings,
        ]

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.all if finding.level == "problem"]


def check_silo(settings: Settings, *, seconds: float, as_json: bool) -> int:
    """Run all checks and print their findings; errors go to standard error, one line each.

    Changes the process's working directory to that of the settings, as the running silo does.

    Args:
        settings: the silo's settings.
        seconds: time limit for reading one source.
        as_json: print JSON.

    Returns:
        0 without errors, else the exit code of the first error.
    """
    configure(settings.silo.log_format, "error")
    os.chdir(settings.directory)
    findings = asyncio.run(_try(settings, seconds))
    if as_json:
        print(json.dumps(_as_json(settings, findings), indent=2))
    else:
        _print(settings, findings)
    for problem in findings.problems:
        print(f"error: {problem.line}", file=sys.stderr)
    return exit_code_of(findings.all)


async def _try(settings: Settings, seconds: float) -> _Findings:
    silo = settings.silo
    broker, runtime, sources = await asyncio.gather(
        examine(
            silo.broker,
            silo_role(silo.cohort, silo.name, enrolled=silo.enrolled),
            renew_seconds=silo.renew_seconds,
        ),
        check_runtime(silo.isolation, memory=silo.runtime_memory_bytes, confinement=silo.runtime_confinement),
        examine_sources(settings, settings.data, seconds=seconds),
    )
    exposed, policy, masking = await asyncio.gather(
        asyncio.to_thread(exposed_secrets, settings),
        asyncio.to_thread(_policy, settings),
        asyncio.to_thread(masked_sums, settings),
    )
    own = exposed + ([] if sources else [no_data(settings)])
    return _Findings(broker, runtime, policy, masking, sources, own)


def _policy(settings: Settings) -> list[Finding]:
    """Describe the policy, and check that the audit log and the record of signed work can be written."""
    policy, accepted = settings.policy, accepted_file(settings)
    try:
        if policy.audit_file:
            AuditLog(settings.directory / policy.audit_file).check()
        if accepted is not None:
            accepted.check()
    except FedbrokerError as error:
        return [Finding.problem("policy", error)]
    return [Finding.ok("policy", policy.summary), Finding.ok("guarantee", policy.guarantee)]


def _as_json(settings: Settings, findings: _Findings) -> dict[str, object]:
    silo = settings.silo
    return {
        "silo": silo.name,
        "cohort": silo.cohort,
        "broker": {"url": silo.shown_broker, "error": _first_problem(findings.broker)},
        "runtime": {"isolation": silo.isolation, "error": _first_problem(findings.runtime)},
        "sources": {source.name: _source_as_json(source) for source in findings.sources},
        "findings": [finding.as_json() for finding in findings.all],
    }


def _source_as_json(found: ExaminedSource) -> dict[str, object]:
    announced, profile = found.announced, found.profile
    if announced is None:
        return {"rows": None, "clients": None, "columns": [], "error": found.error}
    columns = [{"name": c.name, "dtype": c.dtype, "shape": list(c.shape)} for c in announced.columns]
    rows = announced.rows if profile is None else profile.rows
    return {"rows": rows, "clients": announced.clients, "columns": columns, "error": found.error}


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


def _columns(sources: Sequence[ExaminedSource]) -> Table:
    """Return a table with a row for each column; with client counts unless every source has one client."""
    from rich.table import Table
    from rich.text import Text

    several = any(source.announced is not None and source.announced.clients != 1 for source in sources)
    numbers = ("rows", "clients") if several else ("rows",)
    table = Table(box=None, pad_edge=False)
    for heading in ("source", *numbers, "column", "dtype"):
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for source in sources:
        announced, profile = source.announced, source.profile
        if announced is None:
            table.add_row(source.name, *("" for _ in numbers), Text("failed", style="red"))
            continue
        rows = announced.rows if profile is None else profile.rows
        first = (source.name, "?" if rows is None else f"{rows:,}", f"{announced.clients:,}")[: 1 + len(numbers)]
        for at, column in enumerate(announced.columns):
            table.add_row(*(first if at == 0 else ("" for _ in first)), column.name, type_text(column))
    return table
