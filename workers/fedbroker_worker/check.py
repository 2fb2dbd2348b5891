"""Tries what a silo needs without joining its cohort, and prints what was found.

Imports wire's messages, transport, runtime and this distribution's modules.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.console import exit_code, one_line
from fedbroker.errors import BrokerUnreachable, FedbrokerError
from fedbroker.log import configure
from fedbroker.runtime import Runtime
from fedbroker.transport.connect import connect
from fedbroker.transport.url import parse
from fedbroker.wire.messages import Source
from fedbroker_worker.catalog import OpenSource

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from typing import Any

    from rich.table import Table
    from rich.text import Text

    from fedbroker.wire.messages import Column
    from fedbroker_worker.config import Settings, SourceSettings

__all__ = ["check_silo"]

BROKER_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Findings:
    """What became of each trial: the error, or None (for a source: what it announces)."""

    broker: FedbrokerError | None
    runtime: FedbrokerError | None
    sources: Mapping[str, Source | FedbrokerError]

    @property
    def errors(self) -> list[FedbrokerError]:
        all_ = (self.broker, self.runtime, *self.sources.values())
        return [one for one in all_ if isinstance(one, FedbrokerError)]


def check_silo(settings: Settings, *, as_json: bool) -> int:
    """Try everything and print it; errors go to standard error, one line each.

    Changes the process's working directory to that of the settings, as the running silo does.

    Returns:
        0 if all is well, else the exit code of the first error.
    """
    configure(settings.silo.log_format, "error")
    os.chdir(settings.directory)
    findings = asyncio.run(_try(settings))
    if as_json:
        print(json.dumps(_as_json(settings, findings), indent=2))
    else:
        _print(settings, findings)
    for error in findings.errors:
        print(f"error: {one_line(error)}", file=sys.stderr)
    return exit_code(findings.errors[0]) if findings.errors else 0


async def _try(settings: Settings) -> _Findings:
    names = list(settings.data)
    sources = (_source(name, settings.data[name], settings) for name in names)
    broker, runtime, *found = await asyncio.gather(
        _caught(_broker(settings)), _caught(_runtime(settings)), *map(_caught, sources)
    )
    by_name = {name: one for name, one in zip(names, found, strict=True) if one is not None}
    return _Findings(_error(broker), _error(runtime), by_name)


async def _broker(settings: Settings) -> None:
    address = parse(settings.silo.broker)
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            connection = await connect(address, f"fedbroker-silo check {settings.silo.name}")
    except TimeoutError:
        raise BrokerUnreachable(
            f"the broker at {address.host}:{address.port} did not answer within {BROKER_SECONDS:g} s",
            hint="correct host and port in its URL, or see what blocks the way (a firewall?)",
        ) from None
    await connection.close()


async def _runtime(settings: Settings) -> None:
    runtime = Runtime(isolation=settings.silo.isolation)
    try:
        await runtime.start()
    finally:
        await runtime.close()


async def _source(name: str, own: SourceSettings, settings: Settings) -> Source:
    source = await OpenSource.open(name, own, settings.directory)
    try:
        await source.count()
        return source.announced
    finally:
        await source.close()


async def _caught(trial: Coroutine[Any, Any, Source | None]) -> Source | FedbrokerError | None:
    try:
        return await trial
    except FedbrokerError as error:
        return error


def _error(found: Source | FedbrokerError | None) -> FedbrokerError | None:
    return found if isinstance(found, FedbrokerError) else None


def _as_json(settings: Settings, findings: _Findings) -> dict[str, object]:
    silo = settings.silo
    return {
        "silo": silo.name,
        "cohort": silo.cohort,
        "broker": {"url": silo.shown_broker, "error": _said(findings.broker)},
        "runtime": {"isolation": silo.isolation, "error": _said(findings.runtime)},
        "sources": {name: _source_as_json(found) for name, found in findings.sources.items()},
    }


def _source_as_json(found: Source | FedbrokerError) -> dict[str, object]:
    if isinstance(found, FedbrokerError):
        return {"rows": None, "clients": None, "columns": [], "error": one_line(found)}
    columns = [{"name": c.name, "dtype": c.dtype, "shape": list(c.shape)} for c in found.columns]
    return {"rows": found.rows, "clients": found.clients, "columns": columns, "error": None}


def _said(error: FedbrokerError | None) -> str | None:
    return one_line(error) if error is not None else None


def _print(settings: Settings, findings: _Findings) -> None:
    from rich.console import Console
    from rich.table import Table

    silo = settings.silo
    summary = Table.grid(padding=(0, 2))
    summary.add_row("silo", f"{silo.name} of cohort {silo.cohort}")
    summary.add_row("broker", silo.shown_broker, _verdict(findings.broker))
    summary.add_row("runtime", f"isolation {silo.isolation}", _verdict(findings.runtime))
    console = Console(highlight=False, markup=False)
    console.print(summary)
    if findings.sources:
        console.print()
        console.print(_columns(findings.sources))


def _columns(sources: Mapping[str, Source | FedbrokerError]) -> Table:
    """A line for each column of each source; the number of clients where it is not one for every source."""
    from rich.table import Table

    several = any(isinstance(found, Source) and found.clients != 1 for found in sources.values())
    numbers = ("rows", "clients") if several else ("rows",)
    table = Table(box=None, pad_edge=False)
    for heading in ("source", *numbers, "column", "dtype"):
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    for name, found in sources.items():
        if isinstance(found, FedbrokerError):
            table.add_row(name, *("" for _ in numbers), _verdict(found))
            continue
        first = (name, f"{found.rows:,}", f"{found.clients:,}")[: 1 + len(numbers)]
        for at, column in enumerate(found.columns):
            table.add_row(*(first if at == 0 else ("" for _ in first)), column.name, _dtype(column))
    return table


def _verdict(error: FedbrokerError | None) -> Text:
    from rich.text import Text

    return Text("ok", style="green") if error is None else Text("failed", style="red")


def _dtype(column: Column) -> str:
    shape = ",".join("?" if size is None else str(size) for size in column.shape)
    return f"{column.dtype}[{shape}]" if shape else column.dtype
