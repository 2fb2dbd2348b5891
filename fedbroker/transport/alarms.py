"""What a silo has refused since nobody who may ask it had written that: logged, and told with its next answer.

Plain state; imports wire and the base.
"""

from __future__ import annotations

from fedbroker.log import get_logger
from fedbroker.wire.messages import MOST_ALARMS

__all__ = ["Alarms"]

_log = get_logger(__name__)


class Alarms:
    """Those that nobody was told of yet."""

    def __init__(self) -> None:
        self._new: list[str] = []

    def add(self, where: str, why: str) -> None:
        """Something was refused."""
        _log.error("message forged", at=where, reason=why)
        if len(self._new) < MOST_ALARMS:
            self._new.append(f"{where}: {why}")

    def take(self) -> tuple[str, ...]:
        """Those that are told now."""
        new, self._new = self._new, []
        return tuple(new)
