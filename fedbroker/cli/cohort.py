"""``fedbroker cohort``: the present silos of cohorts, and their work."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

from fedbroker.cli.common import Json, Seconds, Url, age_text, console, print_json, table
from fedbroker.deadline import Deadline
from fedbroker.log import configure
from fedbroker.text import printable, seconds_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from fedbroker.cli.silo_table import Row, SiloTable
    from fedbroker.transport.observer import CohortObserver

__all__ = ["app"]

OPEN: Final = 20.0
"""Seconds to connect and hear the silos that are present."""
LISTEN: Final = 6.0
"""Seconds; a little more than the default heartbeat of silos."""
REFRESH: Final = 1.0
"""Seconds between two looks at the clock: a silo that is gone sends no message."""

STYLES: Final = {"present": "green", "left": "yellow", "gone": "red"}

Listen = Annotated[
    Seconds, cyclopts.Parameter(help="Seconds to listen. Silos announce themselves every 5 s by default.")
]
Name = Annotated[str, cyclopts.Parameter(help="The cohort's name.")]

app = cyclopts.App(name="cohort", help_format="plaintext")

_LIST = """Examples:
  export FEDBROKER_URL=amqps://me:secret@broker.example/
  fedbroker cohort list
  fedbroker cohort list --seconds 60        for silos with long heartbeats
  fedbroker cohort list --json | jq -r '.[].cohort'"""

_SHOW = """Examples:
  fedbroker cohort show airports
  fedbroker cohort show airports --json | jq '.[] | select(.state == "present").silo'"""

_WATCH = """Examples:
  fedbroker cohort watch airports
  fedbroker cohort watch airports --json    one line per change"""


@app.command(name="list", help_epilogue=_LIST)
def list_(*, url: Url, seconds: Listen = LISTEN, json: Json = False) -> None:
    """List the cohorts whose silos announce themselves within some seconds."""
    configure("auto", "error")
    tables = asyncio.run(_tables(url, seconds))
    now = time.monotonic()
    counted = [
        (name, [row.announce.silo for row in silos.rows(now) if row.state == "present"]) for name, silos in tables
    ]
    if json:
        print_json([{"cohort": name, "silos": len(present), "names": present} for name, present in counted])
    elif counted:
        shown = table("cohort", "silos", "names", right=("silos",))
        for name, present in counted:
            shown.add_row(printable(name), str(len(present)), printable(", ".join(present)))
        console().print(shown)
    else:
        print(f"no silo announced itself within {seconds_text(seconds)}")


@app.command(help_epilogue=_SHOW)
def show(cohort: Name, /, *, url: Url, json: Json = False) -> None:
    """Show a cohort's silos: state, data sources and work in flight. A cohort without silos is an error.

    A silo that takes part in masked sums `masks`: it has keys, and a valid roster.
    """
    from fedbroker.errors import CohortError

    configure("auto", "error")
    rows = asyncio.run(_rows(url, cohort))
    if json:
        print_json([row.as_json() for row in rows])
    elif rows:
        console().print(_table(rows))
    if not rows:
        hint = "start silos (`fedbroker-silo run`), or correct the cohort's name (`fedbroker cohort list`)"
        raise CohortError(f"cohort {cohort!r} has no silo", hint=hint)


@app.command(help_epilogue=_WATCH)
def watch(cohort: Name, /, *, url: Url, json: Json = False) -> None:
    """Show a cohort's silos until Ctrl-C, as they join, work and leave.

    Prints a live table on a terminal, and one line per change elsewhere or with
    --json. A silo that said goodbye is `left`; a silo that missed two heartbeats
    is `gone`.
    """
    configure("auto", "warning" if json or not sys.stdout.isatty() else "error")
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        asyncio.run(_watch(url, cohort, json))


async def _tables(url: str, seconds: float) -> list[tuple[str, SiloTable]]:
    from fedbroker.cli.silo_table import SiloTable
    from fedbroker.transport.coordinator.announcements import LobbyMessage
    from fedbroker.transport.observer import CohortObserver

    tables: dict[str, SiloTable] = defaultdict(SiloTable)

    def on_message(message: LobbyMessage) -> None:
        tables[message.cohort].update(message, time.monotonic())

    observer = CohortObserver(url, None, on_message)
    await observer.open(Deadline.after(OPEN))
    try:
        await asyncio.sleep(seconds)
    finally:
        await observer.close()
    return sorted((name, silos) for name, silos in tables.items() if silos.rows(0.0))


async def _rows(url: str, cohort: str) -> list[Row]:
    silos, observer = _observer(url, cohort, lambda: None)
    await observer.open(Deadline.after(OPEN))
    await observer.close()
    return silos.rows(time.monotonic())


async def _watch(url: str, cohort: str, json: bool) -> None:
    heard = asyncio.Event()
    silos, observer = _observer(url, cohort, heard.set)
    await observer.open(Deadline.after(OPEN))
    try:
        if sys.stdout.isatty() and not json:
            await _live(cohort, silos, observer, heard)
        else:
            await _lines(silos, heard, json)
    finally:
        await observer.close()


def _observer(url: str, cohort: str, changed: Callable[[], None]) -> tuple[SiloTable, CohortObserver]:
    from fedbroker.cli.silo_table import SiloTable
    from fedbroker.transport.coordinator.announcements import LobbyMessage
    from fedbroker.transport.observer import CohortObserver

    silos = SiloTable()

    def on_message(message: LobbyMessage) -> None:
        silos.update(message, time.monotonic())
        changed()

    return silos, CohortObserver(url, cohort, on_message)


async def _live(cohort: str, silos: SiloTable, observer: CohortObserver, heard: asyncio.Event) -> None:
    from rich.live import Live

    with Live(console=console(), auto_refresh=False) as live:
        while True:
            shown = _table(silos.rows(time.monotonic()))
            lost = await observer.lost()
            shown.title = f"cohort {cohort}" + (f"\n{lost}" if lost else "")
            shown.title_justify = "left"
            live.update(shown, refresh=True)
            await _next(heard)


async def _lines(silos: SiloTable, heard: asyncio.Event, json: bool) -> None:
    from fedbroker.cli.silo_table import changed_rows

    before: dict[str, Row] = {}
    while True:
        rows = {row.announce.silo: row for row in silos.rows(time.monotonic())}
        for row in changed_rows(before, rows):
            if json:
                print_json(row.as_json())
            else:
                _print_line(row)
        before = rows
        await _next(heard)


async def _next(heard: asyncio.Event) -> None:
    """Wait for a message, or for ``REFRESH`` seconds: a silo that is gone sends none."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFRESH):
            await heard.wait()
    heard.clear()


def _print_line(row: Row) -> None:
    silo = row.announce
    facts = f"{row.state}, incarnation {silo.incarnation}, sources {', '.join(silo.sources) or 'none'}"
    facts += f", {silo.in_flight} in flight{', masks' if silo.mask_key else ''}"
    print(printable(f"{datetime.now():%H:%M:%S} {silo.silo} {facts}"), flush=True)


def _table(rows: Sequence[Row]) -> Table:
    from rich.text import Text

    right = ("last seen", "in flight")
    shown = table("silo", "state", "incarnation", "sources", "last seen", "in flight", "masks", right=right)
    for row in rows:
        silo = row.announce
        sources = "\n".join(
            f"{printable(name)} ({'?' if source.rows is None else source.rows})"
            for name, source in silo.sources.items()
        )
        state = Text(row.state, style=STYLES[row.state])
        names = (printable(silo.silo), state, printable(silo.incarnation))
        masks = "yes" if silo.mask_key else "no"
        shown.add_row(*names, sources, age_text(row.ago), str(silo.in_flight), masks)
    return shown
