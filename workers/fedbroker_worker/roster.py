"""The file of the cohort's roster at a silo: read again when it changes, and never an older one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

from fedbroker.credentials import write_private
from fedbroker.errors import ConfigError
from fedbroker.log import get_logger
from fedbroker.masking.roster import MAX_ROSTER_BYTES, Roster, parse_roster
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import TypeAlias

    from fedbroker.trust import Public
    from fedbroker_worker.config import Settings

__all__ = ["RosterFile", "roster_file"]

_log = get_logger(__name__)

_INSTALL: Final = "install the cohort's roster there, as `fedbroker admin roster` writes it"

_Stamp: TypeAlias = tuple[int, int, int, int]


def roster_file(
    settings: Settings, clock: Callable[[], float] = time.time, *, remembers: bool = True
) -> RosterFile | None:
    """Return the roster of a silo's settings; None if they name no administrator's key: then it masks nothing.

    The newest roster is remembered in :attr:`Settings.state_directory`, across restarts.

    Args:
        settings: the silo's settings.
        clock: returns seconds since 1970.
        remembers: write that record; otherwise only read it.
    """
    if settings.roster is None or settings.keys is None:
        return None
    silo = settings.silo
    return RosterFile(
        settings.roster.path,
        settings.roster.key,
        silo.cohort,
        member=(silo.name, settings.keys.own.public),
        record=settings.state_directory / f"{silo.cohort}.{silo.name}.roster-seen",
        remembers=remembers,
        clock=clock,
    )


class RosterFile:
    """The roster in force: the newest that this silo has seen, until it expires.

    It stays in force if its file is removed, damaged or replaced by an older one. Its methods block: call them in a
    thread. Several threads may call them at a time.

    Args:
        path: the file. It need not exist yet.
        key: the public key of the cohort's administrator.
        cohort: the cohort's name.
        member: this silo's name and public key, which must be in the roster; None to accept any roster.
        record: a file that keeps the newest roster across restarts; None to forget it.
        remembers: write the record; otherwise only read it.
        clock: returns seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        key: Public,
        cohort: str,
        *,
        member: tuple[str, Public] | None = None,
        record: Path | None = None,
        remembers: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._key = key
        self._cohort = cohort
        self._member = member
        self._record = record
        self._remembers = remembers
        self._clock = clock
        self._lock = threading.Lock()
        self._is_loaded = False
        self._stamp: _Stamp | None = None
        self._newest: Roster | None = None
        self._problem: ConfigError | None = None
        self._reported: set[str] = set()
        self._is_in_force = False

    def current(self) -> Roster:
        """Return the roster in force; read its file if it changed since the last call.

        Raises:
            SettingsError: no valid roster was installed yet, the newest one has expired, or this silo is not in it
                with its key. The error is logged, once.
        """
        with self._lock:
            if not self._is_loaded:
                self._is_loaded = True
                self._restore()
            self._refresh()
            self._is_in_force = False
            try:
                roster = self._checked(self._newest)
            except ConfigError as error:
                problem = SettingsError(f"no masked sums: {error.what}", hint=error.hint)
                self._report(problem)
                raise problem from None
            self._is_in_force = True
            if self._problem is None:
                self._reported.clear()  # a later problem is logged, even if it is the same again
            return roster

    @property
    def is_in_force(self) -> bool:
        """True after a call of :meth:`current` that returned a roster. Does not block."""
        return self._is_in_force

    async def watch(self, seconds: float) -> None:
        """Read the roster every so many seconds, in a thread, until cancelled."""
        while True:
            with contextlib.suppress(SettingsError):
                await in_thread(self.current, "roster")
            await asyncio.sleep(seconds)

    @property
    def problem(self) -> ConfigError | None:
        """The reason why the present file is not in force; None if it is."""
        return self._problem

    def _checked(self, roster: Roster | None) -> Roster:
        if roster is None:
            assert self._problem is not None, "the file was read"
            raise self._problem
        roster.check_expiry(self._clock())
        if self._member is not None:
            roster.check_member(*self._member)
        return roster

    def _refresh(self) -> None:
        """Read the file if it changed."""
        try:
            if self._stamp is not None and self._stamp == _stamp(os.stat(self.path)):
                return
            self._stamp, content = _read(self.path)
            # Expiry is checked at each use: a newer roster that has expired still replaces an older one.
            roster = parse_roster(content, self._key, self._cohort, 0.0, self._newest)
        except OSError as error:
            self._stamp = None
            what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            self._reject(ConfigError(f"roster {self.path} {what}", hint=_INSTALL))
        except ConfigError as error:
            self._reject(ConfigError(f"{self.path}: {error.what}", hint=error.hint))
        else:
            self._problem = None
            if roster != self._newest:
                self._put_in_force(roster)
                self._remember(content)

    def _put_in_force(self, roster: Roster) -> None:
        self._newest = roster
        _log.info("roster_loaded", number=roster.serial, silos=len(roster.silos), expires=roster.last_day)

    def _reject(self, problem: ConfigError) -> None:
        self._problem = problem
        if self._newest is not None:  # otherwise `current` raises and reports it
            kept = f"roster {self._newest.serial} stays in force"
            self._report(ConfigError(f"{problem.what}; {kept}", hint=problem.hint))

    def _report(self, problem: ConfigError) -> None:
        if str(problem) not in self._reported:
            self._reported.add(str(problem))
            _log.warning("roster_rejected", reason=str(problem))

    def _restore(self) -> None:
        """Load the newest roster of earlier processes. Without it, the file alone decides."""
        if self._record is None:
            return
        try:
            _, content = _read(self._record)
            self._put_in_force(parse_roster(content, self._key, self._cohort, 0.0))
        except FileNotFoundError:
            pass
        except (OSError, ConfigError) as error:  # such as of another administrator's key
            _log.warning("roster_record_ignored", file=str(self._record), reason=str(error))

    def _remember(self, content: bytes) -> None:
        if self._record is None or not self._remembers:
            return
        try:
            write_private(self._record, content.decode(errors="replace"))
        except ConfigError as error:  # an older roster could come back after a restart
            _log.warning("roster_record_failed", reason=str(error))


def _read(path: Path) -> tuple[_Stamp, bytes]:
    """Return a file's identity and content.

    Raises:
        ConfigError: it is no ordinary file.
        OSError: it cannot be read.
    """
    # Non-blocking: opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("this is not a file", hint=_INSTALL)
        return _stamp(status), file.read(MAX_ROSTER_BYTES + 1)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
