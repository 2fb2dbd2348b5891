"""The commands ``fedbroker-silo status``, ``pause`` and ``resume``: talk to the running service of a silo."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from fedbroker.text import bytes_text, count_text, printable, seconds_text
from fedbroker_worker.config import load_for_control
from fedbroker_worker.control.client import find
from fedbroker_worker.control.protocol import Condition, Pause, Request, Resume, Status
from fedbroker_worker.errors import ControlFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fedbroker_worker.control.views import StatusView

__all__ = ["control_silo", "places"]

_REQUESTS: Final[Mapping[str, Request]] = {"status": Status(), "pause": Pause(), "resume": Resume()}


def places(config: Path, socket: Path | None) -> list[Path]:
    """Return where to look for the control socket: the one that is named, or those of the settings.

    Raises:
        SettingsError: the settings cannot be read.
    """
    return [socket.absolute()] if socket is not None else load_for_control(config).candidates()


def control_silo(command: str, config: Path, *, socket: Path | None = None, as_json: bool = False) -> None:
    """Carry out a command at the running service, and print its status.

    Args:
        command: ``status``, ``pause`` or ``resume``.
        config: the silo's settings.
        socket: its control socket; None for the one of the settings.
        as_json: print JSON.

    Raises:
        SettingsError: the settings cannot be read.
        ServiceNotRunning: no service runs.
        ControlDenied: this user may not control it.
        ControlFailed: the service did not do it.
    """
    place, reply = find(places(config, socket), _REQUESTS[command])
    if not isinstance(reply, Condition):
        raise ControlFailed("the silo's service answered something else than was asked")
    if as_json:
        print(msgspec.json.encode({**msgspec.to_builtins(reply.status), "note": reply.note}).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _facts(reply.status, reply.note, place):
        table.add_row(label, printable(text, None))
    Console(highlight=False, markup=False, emoji=False).print(table)


def _facts(status: StatusView, note: str, place: Path) -> Iterator[tuple[str, str]]:
    """Yield label and text of each fact."""
    yield "silo", f"{status.silo}, cohort {status.cohort}"
    yield "state", _state(status)
    if note:
        yield "note", note
    yield "broker", f"{status.broker}, {'connected' if status.connected else 'not connected'}"
    yield "running", f"{count_text(status.running, 'work item')}, {count_text(status.sessions, 'session')}"
    ended = f"{status.answered:,} answered, {status.refused:,} refused, {status.failed:,} failed"
    yield "so far", f"{ended}; {bytes_text(status.bytes_out)} left"
    for source in status.sources:
        rows = "rows unknown" if source.rows is None else count_text(source.rows, "row")
        yield "data", f"{source.name}: {rows}, {count_text(source.clients, 'client')}"
    yield "policy", status.guarantee
    if status.roster:
        yield "roster", status.roster
    yield "process", f"{status.pid}, version {status.version}, since {_local(status.since)}"
    yield "socket", str(place)


def _state(status: StatusView) -> str:
    if status.paused_since is None:
        return status.state
    kept = "until `fedbroker-silo resume`" if status.pause_kept else "until the service ends"
    spent = seconds_text(max(0.0, round(time.time() - status.paused_since)))
    paused = f"paused since {_local(status.paused_since)} ({spent}), {kept}"
    return paused if status.state == "paused" else f"{status.state}, {paused}"


def _local(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
