"""Forged messages that this silo rejected: logged, and reported to each coordinator with its next reply."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from fedbroker.log import get_logger
from fedbroker.wire.messages import MAX_FORGERY_REPORTS

__all__ = ["ForgeryReports"]

_log = get_logger(__name__)

READERS: Final = 64
"""Maximum number of coordinators whose reports are tracked; the least recent are forgotten."""


class ForgeryReports:
    """The latest alarms, and the number of them that each coordinator has received.

    Each coordinator receives all alarms with the silo's replies: one coordinator cannot consume those of another.
    """

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=MAX_FORGERY_REPORTS)
        self._count = 0
        self._told: OrderedDict[str, int] = OrderedDict()  # number of alarms that each reader has received

    def add(self, where: str, why: str) -> None:
        """Log an alarm, and keep it for the next replies."""
        _log.error("message_forged", at=where, reason=why)
        self._kept.append(f"{where}: {why}")
        self._count += 1

    def take(self, reader: str = "") -> tuple[str, ...]:
        """Return the alarms that a reader has not received yet; ``reader`` is the fingerprint of its key."""
        new = self._count - self._told.pop(reader, 0)
        self._told[reader] = self._count
        if len(self._told) > READERS:
            self._told.popitem(last=False)
        return tuple(self._kept)[-new:] if new else ()
