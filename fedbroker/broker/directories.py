"""The directories of private nodes: temporary ones, paths that RabbitMQ's scripts can use, and removal of leftovers."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from fedbroker.errors import BrokerStartError

__all__ = ["link_to", "make_temporary", "remove_leftovers", "usable"]

PREFIX: Final = "fedbroker-broker-"
LINK: Final = "node"
"""The name of the symbolic link in a directory of :func:`link_to`."""

_SETTLED: Final = 10.0
"""Seconds after which a directory whose lock is free counts as left behind; its owner locks it well before."""

# RabbitMQ's scripts do not quote paths.
_USABLE: Final = re.compile(r"[A-Za-z0-9/_.,:=@%+~-]+")

_PLACES: Final = ("/tmp", "/var/tmp", "/dev/shm")  # directories are made by mkdtemp  # nosec B108


def usable(path: Path) -> bool:
    """Return whether RabbitMQ's scripts can use a path: it has no spaces, quotes or other special characters."""
    return _USABLE.fullmatch(str(path)) is not None


def make_temporary() -> Path:
    """Create a temporary directory that RabbitMQ's scripts can use: under TMPDIR if its path is usable.

    Raises:
        BrokerStartError: no directory for temporary files can be used.
    """
    for place in (tempfile.gettempdir(), *_PLACES):
        if usable(Path(place)):
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    raise BrokerStartError(
        "no directory for temporary files can be used", hint="set TMPDIR to one whose path has no spaces"
    )


def link_to(directory: Path) -> Path:
    """Return a usable path that leads to a directory: a symbolic link in a temporary directory, to be removed later.

    Raises:
        BrokerStartError: as :func:`make_temporary`.
    """
    link = make_temporary() / LINK
    link.symlink_to(directory)
    return link


def remove_leftovers() -> None:
    """Remove this user's temporary directories of private nodes that were killed together with their supervisors."""
    for place in dict.fromkeys((tempfile.gettempdir(), *_PLACES)):
        for directory in Path(place).glob(f"{PREFIX}*"):
            with suppress(OSError):
                if _is_abandoned(directory):
                    shutil.rmtree(directory, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    found = directory.lstat()
    if found.st_uid != os.geteuid() or directory.is_symlink() or time.time() - found.st_mtime < _SETTLED:
        return False
    target = directory / LINK
    lock = (target if target.is_symlink() else directory) / "lock"
    if not lock.exists():
        return True
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
