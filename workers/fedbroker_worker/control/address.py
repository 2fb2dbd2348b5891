"""Where a silo's control socket is: the same for the service and for the command line that looks for it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NONE", "SiloAddress"]

NONE: Final = "none"
"""The value of ``[silo] control`` for a silo without a control socket."""

SYSTEMD: Final = Path("/run/fedbroker-silo")
"""The parent of our unit's runtime directories, one for each silo; the unit names the socket in it."""

SOCKET: Final = "control.sock"
"""The socket's name in a directory of the silo's own."""


@dataclass(frozen=True, slots=True)
class SiloAddress:
    """The settings from which the place of a silo's control socket follows.

    Attributes:
        settings: the silo's settings file.
        cohort: the silo's cohort.
        silo: its name.
        control: ``[silo] control``: a path relative to the settings, ``none``, or empty for the default place.
        state: the directory for records that outlive the process.
    """

    settings: Path
    cohort: str
    silo: str
    control: str
    state: Path

    def own(self, environ: Mapping[str, str] = os.environ) -> Path | None:
        """Return where the service listens; None for a silo without a control socket.

        Without a setting it is in the user's own runtime directory, else next to the silo's records.
        """
        if self.control == NONE:
            return None
        if self.control:
            return self.settings.parent / self.control
        runtime = _runtime_directory(environ)
        return self.state / self._name if runtime is None else runtime / "fedbroker" / self._name

    def candidates(self, environ: Mapping[str, str] = os.environ) -> list[Path]:
        """Return where to look for the service, which may run as another user or as a service of systemd."""
        own = self.own(environ)
        if self.control:
            return [] if own is None else [own]
        owner = self.settings.stat().st_uid if self.settings.exists() else os.geteuid()
        places = [
            own,
            SYSTEMD / self.settings.stem / SOCKET,
            Path(f"/run/user/{owner}/fedbroker") / self._name,
            self.state / self._name,
            self.settings.parent / self._name,
        ]
        return list(dict.fromkeys([place for place in places if place is not None]))

    @property
    def _name(self) -> str:
        """The socket's name in a directory that silos share: silos of other brokers may have the same names.

        Short, since the address of a Unix socket has at most 107 bytes.
        """
        own = os.fsencode(self.settings.resolve()) + b"\0" + self.cohort.encode()
        return f"{self.silo}.{hashlib.sha256(own).hexdigest()[:8]}.sock"


def _runtime_directory(environ: Mapping[str, str]) -> Path | None:
    """Return ``XDG_RUNTIME_DIR`` if it belongs to this user: ``sudo`` and ``su`` may keep that of another."""
    name = environ.get("XDG_RUNTIME_DIR", "")
    try:
        mine = os.path.isabs(name) and os.stat(name).st_uid == os.geteuid()
    except OSError:
        return None
    return Path(name) if mine else None
