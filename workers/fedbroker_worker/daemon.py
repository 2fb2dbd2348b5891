"""The process of a silo: signals, the working directory, and signs of life for systemd and probes."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from fedbroker import tracing
from fedbroker.console import one_line
from fedbroker.log import configure, get_logger
from fedbroker_worker.control.commands import SiloControl
from fedbroker_worker.control.pausing import pause_file
from fedbroker_worker.control.server import ControlServer
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.service import SiloService
from fedbroker_worker.threads import still_running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from fedbroker.errors import BrokerRefused
    from fedbroker.metrics.exposition import Exposition
    from fedbroker_worker.config import Settings

__all__ = ["Manager", "Pulse", "run_silo"]

_log = get_logger(__name__)

FLUSH_SECONDS: Final = 3.0
"""Time limit for sending the last traces, so that an unreachable collector does not delay the silo's exit."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run_silo(
    settings: Settings,
    *,
    ready_file: Path | None = None,
    alive_file: Path | None = None,
    hung_after: float | None = None,
    until_eof: bool = False,
) -> None:
    """Run a silo until a signal, or the end of standard input, stops it.

    Changes the process's working directory to that of the settings, so that relative file names in a query resolve
    there, and configures the log.

    Args:
        settings: the silo's settings.
        ready_file: created once the silo is in its cohort, removed at the end.
        alive_file: touched every few seconds while the event loop runs, removed at the end.
        hung_after: end the process if the event loop does not run for this many seconds; None for never.
        until_eof: also stop when standard input ends.

    Raises:
        FedbrokerError: the silo could not join its cohort; see :meth:`SiloService.open`.
    """
    configure(settings.silo.log_format, settings.silo.log_level)
    structlog.contextvars.bind_contextvars(silo=settings.silo.name)
    ready_file = ready_file.absolute() if ready_file is not None else None
    alive_file = alive_file.absolute() if alive_file is not None else None
    os.chdir(settings.directory)
    tracing.start("fedbroker-silo", silo=settings.silo.name, cohort=settings.silo.cohort)
    try:
        asyncio.run(_run(settings, ready_file, alive_file, hung_after, until_eof))
    finally:
        tracing.flush(FLUSH_SECONDS)
    if still_running():
        os._exit(0)  # a source does not stop: its native code must not run while the interpreter ends


async def _run(
    settings: Settings, ready_file: Path | None, alive_file: Path | None, hung_after: float | None, until_eof: bool
) -> None:
    started = time.monotonic()
    if ready_file is not None:
        _remove(ready_file)  # of a process that was killed
    stop = _stop_signal(until_eof)
    manager = Manager()
    service, exposition = _service(settings, (lambda error: pulse.refused(error)) if manager.is_present else None)
    control = SiloControl(settings, service, pause_file(settings))
    await control.restore()
    async with (
        Pulse(manager, lambda: service.status, alive_file, hung_after) as pulse,
        ControlServer(settings.control_address.own(), control.answer),
    ):
        try:
            if not await _opened(service, stop):
                pulse.stopping()
                return
            seconds = round(time.monotonic() - started, 3)
            silo = settings.silo
            _log.info(
                "cohort_joined",
                cohort=silo.cohort,
                broker=silo.shown_broker,
                sources=list(settings.data),
                seconds=seconds,
            )
            pulse.ready()
            with _ready_sign(ready_file):
                await stop.wait()
                _log.info("stop_requested")
                pulse.stopping()
                await service.drain()
        finally:
            await service.close()
            if exposition is not None:
                exposition.close()
    _log.info("silo_stopped")


def _service(
    settings: Settings, on_refused: Callable[[BrokerRefused], None] | None
) -> tuple[SiloService, Exposition | None]:
    """Return the service, and the server of its metrics if the settings ask for one."""
    silo = settings.silo
    if not silo.metrics:
        return SiloService(settings, on_refused=on_refused), None
    from fedbroker.metrics.exposition import Exposition
    from fedbroker_worker.metrics import SiloMetrics

    metrics = SiloMetrics(silo.cohort, silo.name)
    service = SiloService(settings, on_refused=on_refused, on_reply=metrics.count_reply)
    metrics.watch(service.statistics)
    return service, Exposition(silo.metrics, metrics.registry)


@contextlib.contextmanager
def _ready_sign(ready_file: Path | None) -> Generator[None]:
    """Create the file for the duration of the block; it holds the process's id.

    Raises:
        SettingsError: it cannot be created.
    """
    if ready_file is not None:
        with _written("--ready-file", ready_file):
            ready_file.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        if ready_file is not None:
            _remove(ready_file)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # must not hide why the silo ends
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(option: str, path: Path) -> Generator[None]:
    """Report a sign of life that cannot be written as an error of the command line."""
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{option} {path} cannot be written: {error.strerror}",
            hint=f"let user {os.geteuid()} write to {path.parent}, or name another file; a tmpfs of a container needs"
            " the user as its option uid",
        ) from None


async def _opened(service: SiloService, stop: asyncio.Event) -> bool:
    """Open the service; return False if it was stopped before it was open."""
    opening = asyncio.create_task(service.open())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            await opening
            return True
        return False
    finally:
        for task in (opening, stopping):
            task.cancel()
        await asyncio.gather(opening, stopping, return_exceptions=True)


def _stop_signal(until_eof: bool) -> asyncio.Event:
    """Return an event that the first signal sets; a second one ends the process at once, and the runtime with it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    if until_eof:
        threading.Thread(target=_wait_for_eof, args=(loop, stop), name="stdin", daemon=True).start()
    return stop


def _wait_for_eof(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # The descriptor itself: a buffered reader would be locked by this thread when the interpreter ends.
    descriptor = sys.__stdin__.fileno() if sys.__stdin__ is not None else None
    with contextlib.suppress(OSError):  # a closed descriptor counts as its end
        while descriptor is not None and os.read(descriptor, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop may be closed by now
        loop.call_soon_threadsafe(stop.set)


PERIOD: Final = 5.0
"""Seconds between two signs of life; shorter if systemd's ``WatchdogSec`` requires it.

A probe that waits for a minute may miss several before it restarts the silo.
"""

PER_WATCH: Final = 3
"""Signs of life in each of systemd's ``WatchdogSec``, so that two late ones do not end the silo."""

PATIENCE: Final = 60
"""Seconds that systemd is asked to wait beyond each sign of life, while the silo starts or stops.

Many times ``PERIOD``, so that a late sign does not end the wait.
"""


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
    def is_present(self) -> bool:
        """True if systemd started this process: it would start one that ends again, every few seconds for ever."""
        return bool(self._address)

    @property
    def period(self) -> float:
        """Seconds between two signs of life."""
        return PERIOD if self._watch is None else min(PERIOD, self._watch / PER_WATCH)

    def notify(self, *messages: str) -> None:
        """Send a message; never block and never fail: a message that cannot be sent is lost."""
        if not self._address:
            return
        lines = (" ".join(message.splitlines()) for message in messages)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(errors="replace"), self._address)


class Pulse:
    """A sign of life every few seconds, as long as the event loop runs. Used with ``async with``.

    Args:
        manager: receives ``WATCHDOG=1`` and the status.
        status: returns a description of the silo's work for people; called for each sign.
        alive_file: touched with each sign; removed at the end.
        hung_after: end the process with code 1 if no sign was given for this many seconds, and write the position of
            each thread to standard error. None for never.
    """

    def __init__(
        self,
        manager: Manager,
        status: Callable[[], str],
        alive_file: Path | None = None,
        hung_after: float | None = None,
    ) -> None:
        self._manager = manager
        self._hung_after = hung_after
        self._period = manager.period if hung_after is None else min(manager.period, hung_after / PER_WATCH)
        self._status = status
        self._alive_file = alive_file
        self._stage = "joining"
        self._refusal = ""
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._alive_file is not None:
            with _written("--alive-file", self._alive_file):
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
        faulthandler.cancel_dump_traceback_later()
        if isinstance(error, Exception):
            self._manager.notify(f"STATUS=failed: {one_line(error)}")
        if self._alive_file is not None:
            _remove(self._alive_file)

    def ready(self) -> None:
        """Report that the silo is in its cohort."""
        self._stage = "in"
        self._manager.notify("READY=1", self._status_line())

    def refused(self, error: BrokerRefused) -> None:
        """Report that the broker refused the silo, which tries again.

        The start counts as over: ``systemctl start`` returns, and ``systemctl status`` shows the reason.
        """
        self._stage, self._refusal = "refused", f"refused by the broker, and tried again: {one_line(error)}"
        self._manager.notify("READY=1", self._status_line())

    def stopping(self) -> None:
        """Report that the silo is about to leave."""
        self._stage = "leaving"
        self._manager.notify("STOPPING=1", self._status_line())

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            self._beat()

    def _beat(self) -> None:
        if self._hung_after is not None:
            # A thread of the C runtime, which does not need the interpreter's lock.
            faulthandler.dump_traceback_later(self._hung_after, exit=True)
        # Standing by, or finishing hours of work, may take longer than systemd waits for a start or a stop.
        more = () if self._stage in ("in", "refused") else (f"EXTEND_TIMEOUT_USEC={PATIENCE * 1_000_000}",)
        self._manager.notify("WATCHDOG=1", self._status_line(), *more)
        if self._alive_file is not None:
            with contextlib.suppress(OSError):  # a file that stays old is the sign that the probe looks for
                self._alive_file.touch()

    def _status_line(self) -> str:
        return f"STATUS={self._refusal if self._stage == 'refused' else f'{self._stage} {self._status()}'}"


def _seconds(environ: Mapping[str, str]) -> float | None:
    """Return systemd's ``WatchdogSec`` in seconds; None if it is not meant for this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    interval = environ.get("WATCHDOG_USEC", "")
    return int(interval) / 1_000_000 if interval.isascii() and interval.isdigit() and int(interval) > 0 else None
