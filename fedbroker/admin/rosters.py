"""Rosters of cohorts, which silos of masked sums believe; their key stays in the administrator's directory.

The signed roster itself is the administrator's record of its silos. The first one is made of the coordinators' files of
keys. The files:

    administrator.key        signs the rosters of all cohorts
    rosters/COHORT.roster    also copied into each silo's directory
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedbroker.admin.files import KEYS, Folder, read_text, roster_name, write_secret
from fedbroker.errors import ConfigError, UsageError
from fedbroker.masking.roster import LIFETIME, Roster, new_roster, read_roster, write_roster
from fedbroker.narrowing import is_dict
from fedbroker.text import printable
from fedbroker.trust import Identity, Public
from fedbroker.wire.messages import check_name

__all__ = ["Rosters", "SignedRoster", "keys_of", "lifetime_of"]

ADMINISTRATOR: Final = "administrator.key"
_EXPIRES: Final = "roster_expires"
_UNITS: Final = {"h": 3600.0, "d": 86400.0, "w": 604800.0}
_LONGEST: Final = 3650 * 86400.0
"""Seconds of ten years: a roster without an end would keep a lost silo trusted for ever."""


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """A roster in the administrator's directory.

    Attributes:
        roster: the roster.
        path: its file.
        key: the public key that silos pin, ``roster_key`` of their ``[security]``.
        previous: the roster that it replaced; None for the first one.
    """

    roster: Roster
    path: Path
    key: Public
    previous: Roster | None

    @property
    def changes(self) -> list[str]:
        """The silos that are new, have another key or were removed, one line each."""
        before = {} if self.previous is None else self.previous.silos
        now = self.roster.silos
        lines = [f"new: {name}" for name in now if name not in before]
        lines += [f"another key: {name}" for name in now if name in before and before[name] != now[name]]
        return lines + [f"removed: {name}" for name in before if name not in now]


class Rosters:
    """The rosters in an administrator's directory, and the key that signs them.

    Args:
        folder: the directory.
        clock: returns seconds since 1970.
    """

    def __init__(self, folder: Folder, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    @property
    def administrator(self) -> Identity | None:
        """The key that signs; None if none was made yet.

        Raises:
            ConfigError: its file cannot be read.
        """
        file = self._folder.root / ADMINISTRATOR
        try:
            return Identity.parse(read_text(file)) if file.exists() else None
        except ConfigError as error:
            raise ConfigError(f"{file}: {error.what}", hint="restore it: silos trust this key only") from None

    def make_administrator(self) -> Identity:
        """Return the key that signs; make it first if it does not exist. Nothing replaces it."""
        existing = self.administrator
        if existing is not None:
            return existing
        made = Identity.generate()
        write_secret(self._folder.root / ADMINISTRATOR, f"{made.reveal()}\n", force=False)
        return made

    def path(self, cohort: str) -> Path:
        """Return the file of a cohort's roster."""
        return self._folder.root / "rosters" / roster_name(cohort)

    def read(self, cohort: str) -> Roster | None:
        """Return a cohort's last roster; None if none was signed yet.

        Raises:
            ConfigError: the file cannot be read, or was changed by someone without the administrator's key.
        """
        path, own = self.path(cohort), self.administrator
        if not path.exists():
            return None
        try:
            if own is None:
                raise ConfigError(f"{ADMINISTRATOR}, the key that signed it, is missing")
            roster = read_roster(path.read_bytes(), own.public)
            if roster.cohort != cohort:
                raise ConfigError(f"the roster is of cohort {roster.cohort!r}")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=_RESTORE) from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.what}", hint=_RESTORE) from None
        return roster

    def silos(self, cohort: str) -> Mapping[str, Public]:
        """Return the public keys of a cohort's silos: from its last roster, or else from the coordinators' files.

        Raises:
            ConfigError: a file cannot be read, or two coordinators have different keys for a silo.
        """
        last = self.read(cohort)
        if last is not None:
            return last.keys
        found: dict[str, Public] = {}
        for file in sorted((self._folder.root / "coordinators").glob(f"*/{cohort}.{KEYS}")):
            for name, key in keys_of(file).items():
                if found.setdefault(name, key) != key:
                    raise ConfigError(
                        f"{file} has another key for silo {name!r}", hint="correct the coordinators' files"
                    )
        return found

    def cohorts(self) -> list[str]:
        """Return the names of all cohorts in the directory."""
        root = self._folder.root
        names = {path.name for path in (root / "silos").glob("*") if path.is_dir()}
        names |= {path.name.removesuffix(f".{KEYS}") for path in (root / "coordinators").glob(f"*/*.{KEYS}")}
        return sorted(names | {path.stem for path in (root / "rosters").glob("*.roster")})

    def check_new(self, cohort: str, silo: str, public: Public) -> None:
        """Check that a silo with this public key can be added.

        Raises:
            ConfigError: another silo has this key, or the last roster cannot be used.
        """
        new_roster(cohort, {**self.silos(cohort), silo: public}, self._clock())

    def sign(
        self,
        cohort: str,
        change: Mapping[str, Public | None] | None = None,
        *,
        silos: Mapping[str, Public] | None = None,
        expires: str | None = None,
    ) -> SignedRoster:
        """Sign a new roster, and copy it into the directories of the cohort's silos.

        Args:
            cohort: the cohort's name.
            change: public keys of silos to add or replace; None removes a silo.
            silos: all silos; None for those of the last roster.
            expires: the time until it expires, as :func:`lifetime_of` reads it; None for that of the last call which
                gave one.

        Raises:
            UsageError: ``expires`` is no time.
            ConfigError: two silos have the same key, or a file cannot be read or written.
        """
        check_name("cohort", cohort)
        previous = self.read(cohort)
        members = {**(self.silos(cohort) if silos is None else silos), **(change or {})}
        keys = {name: key for name, key in members.items() if key is not None}
        chosen = expires or self._folder.remembered.get(_EXPIRES)
        lifetime = LIFETIME if chosen is None else lifetime_of(chosen)
        if expires is not None:
            self._folder.remember(**{_EXPIRES: expires})
        administrator = self.make_administrator()
        roster = new_roster(cohort, keys, self._clock(), previous, lifetime)
        text = write_roster(roster, administrator).decode()
        for path in (self.path(cohort), *self._copies(cohort)):
            write_secret(path, text, force=True)
        return SignedRoster(roster, self.path(cohort), administrator.public, previous)

    def _copies(self, cohort: str) -> list[Path]:
        directories = (self._folder.root / "silos" / cohort).glob("*")
        return [path / roster_name(cohort) for path in sorted(directories) if path.is_dir()]


def keys_of(file: Path) -> dict[str, Public]:
    """Return the silos' public keys in a coordinator's file of keys.

    Raises:
        ConfigError: the file cannot be read, has no silos, or one of its keys is wrong.
    """
    try:
        silos = tomllib.loads(read_text(file)).get("silos")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}", hint="correct that line") from None
    if not is_dict(silos):
        raise ConfigError(f"{file} has no table [silos]", hint="name a coordinator's file of keys")
    keys: dict[str, Public] = {}
    for name, text in silos.items():
        try:
            keys[check_name("silo", name)] = Public.parse(str(text))
        except ConfigError as error:
            raise ConfigError(f"{name!r} in [silos] of {file}: {error.what}", hint=error.hint) from None
    return keys


def lifetime_of(text: str) -> float:
    """Return the seconds of a time such as ``90d``, ``12h`` or ``4w``.

    Raises:
        UsageError: it is no such time, or longer than ten years.
    """
    number, unit = text[:-1], text[-1:]
    seconds = int(number) * _UNITS[unit] if number.isascii() and number.isdigit() and unit in _UNITS else 0.0
    if not 0 < seconds <= _LONGEST:
        raise UsageError(
            f"{printable(text)!r} is no time until a roster expires",
            hint="write hours, days or weeks: 12h, 90d, 4w; at most 3650d",
        )
    return seconds


_RESTORE: Final = "restore it, or remove it: the next roster is then made of the coordinators' files of keys"
