"""Forged messages that this silo refused: logged, and reported to each coordinator with its next answer.

Plain state; imports wire and the base.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from fedbroker.log import get_logger
from fedbroker.wire.messages import MOST_ALARMS

__all__ = ["ForgeryReports"]

_log = get_logger(__name__)

READERS: Final = 64
"""Coordinators that are told apart."""


class ForgeryReports:
    """The last alarms, and which of them each coordinator was told of.

    Every coordinator that the silo answers is told of every alarm: one coordinator cannot take away what was meant for
    another.
    """

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=MOST_ALARMS)
        self._count = 0
        self._told: OrderedDict[str, int] = OrderedDict()  # how many each reader was told of

    def add(self, where: str, why: str) -> None:
        """Log an alarm, and keep it to be told."""
        _log.error("message forged", at=where, reason=why)
        self._kept.append(f"{where}: {why}")
        self._count += 1

    def take(self, reader: str = "") -> tuple[str, ...]:
        """Return the alarms that a reader was not told of yet; ``reader`` is the fingerprint of its key."""
        new = self._count - self._told.pop(reader, 0)
        self._told[reader] = self._count
        if len(self._told) > READERS:
            self._told.popitem(last=False)
        return tuple(self._kept)[-new:] if new else ()
