"""The record that a silo is paused, so that it stays paused when its service or its machine is started again."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

from fedbroker.credentials import replace_private
from fedbroker.log import get_logger
from fedbroker.narrowing import is_dict

if TYPE_CHECKING:
    from pathlib import Path

    from fedbroker_worker.config import Settings

__all__ = ["PauseFile", "pause_file"]

_log = get_logger(__name__)

SINCE: Final = "paused_since"


def pause_file(settings: Settings) -> PauseFile:
    """Return a silo's record, in the folder of its audit log or else its settings."""
    return PauseFile(settings.state_directory / f"{settings.silo.cohort}.{settings.silo.name}.paused")


class PauseFile:
    """The record's file: it exists while the silo is paused. Its methods block: call them in a thread.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> float | None:
        """Return since when the silo is paused, in seconds since 1970; None if it is not.

        A record that cannot be understood counts: starting work against the administrator's will is the worse mistake.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("pause_not_recorded", file=str(self.path), reason=str(error))
            return time.time()
        try:
            fields = json.loads(text)
            return float(fields[SINCE]) if is_dict(fields) else time.time()
        except (ValueError, KeyError, TypeError, RecursionError):
            return time.time()

    def write(self, since: float) -> None:
        """Record a pause.

        Raises:
            OSError: the file cannot be written.
        """
        replace_private(self.path, json.dumps({SINCE: since}) + "\n", 0o600)

    def remove(self) -> None:
        """Record that the silo works again.

        Raises:
            OSError: the file cannot be removed.
        """
        self.path.unlink(missing_ok=True)
