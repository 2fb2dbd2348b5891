"""Signs of life of a silo, from its event loop: to systemd's notify socket, and to a file for probes of containers.

If the loop is blocked, for example by a data source that never releases the interpreter's lock, the signs stop, and
systemd or the container's manager can restart the silo.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final

from fedbroker.console import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

__all__ = ["Manager", "Pulse"]

PERIOD: Final = 5.0
"""Seconds between two signs of life; shorter if systemd's ``WatchdogSec`` asks for it."""

PER_WATCH: Final = 3
"""Signs in each of systemd's ``WatchdogSec``: two of them may be late."""

PATIENCE: Final = 60
"""Seconds that systemd is asked to wait beyond each sign, while the silo starts or stops."""


class Manager:
    """systemd's notify socket, if systemd started this process with ``Type=notify``; otherwise nothing is sent.

    Args:
        environ: the environment with systemd's variables.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watch = _seconds(environ) if address else None

    @property
    def period(self) -> float:
        """Seconds between two signs of life."""
        return PERIOD if self._watch is None else min(PERIOD, self._watch / PER_WATCH)

    def tell(self, *words: str) -> None:
        """Send a message; never block and never fail: a message that cannot be sent is lost."""
        if not self._address:
            return
        lines = (" ".join(word.splitlines()) for word in words)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(errors="replace"), self._address)


class Pulse:
    """A sign of life every few seconds, as long as the event loop runs. Used with ``async with``.

    Args:
        manager: receives ``WATCHDOG=1`` and the status.
        status: returns a description of the silo's work for people; called for each sign.
        alive_file: touched with each sign; removed at the end.
    """

    def __init__(self, manager: Manager, status: Callable[[], str], alive_file: Path | None = None) -> None:
        self._manager = manager
        self._status = status
        self._alive_file = alive_file
        self._stage = "joining"
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._alive_file is not None:
            self._alive_file.touch()  # a wrong path raises now, not with a later sign
        self._beat()
        self._task = asyncio.create_task(self._keep_beating(), name="pulse")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None, "entered before"
        self._task.cancel()
        await asyncio.wait([self._task])
        if isinstance(error, Exception):
            self._manager.tell(f"STATUS=failed: {one_line(error)}")
        if self._alive_file is not None:
            self._alive_file.unlink(missing_ok=True)

    def ready(self) -> None:
        """Report that the silo is in its cohort."""
        self._stage = "in"
        self._manager.tell("READY=1", self._words())

    def stopping(self) -> None:
        """Report that the silo is about to leave."""
        self._stage = "leaving"
        self._manager.tell("STOPPING=1", self._words())

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._manager.period)
            self._beat()

    def _beat(self) -> None:
        # Standing by, or finishing hours of work, may take longer than systemd waits for a start or a stop.
        more = () if self._stage == "in" else (f"EXTEND_TIMEOUT_USEC={PATIENCE * 1_000_000}",)
        self._manager.tell("WATCHDOG=1", self._words(), *more)
        if self._alive_file is not None:
            with contextlib.suppress(OSError):  # a file that stays old is the sign that the probe looks for
                self._alive_file.touch()

    def _words(self) -> str:
        return f"STATUS={self._stage} {self._status()}"


def _seconds(environ: Mapping[str, str]) -> float | None:
    """Return systemd's ``WatchdogSec`` in seconds; None if it is not meant for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    wish = environ.get("WATCHDOG_USEC", "")
    return int(wish) / 1_000_000 if wish.isascii() and wish.isdigit() and int(wish) > 0 else None
