"""Plain counts of what the transport does, for whoever wants to see them; read from any thread, written on the loop.

Imports nothing of fedbroker.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TrafficCounters", "WorkCounters"]


@dataclass(slots=True)
class TrafficCounters:
    """What went over one connection, with all the lines that it has had.

    Attributes:
        up: whether there is a line that is set up.
        reconnections: how often it was lost and came back.
        messages_out: messages that the broker confirmed.
        bytes_out: of their bodies.
        messages_in: messages that the broker delivered.
        bytes_in: of their bodies.
    """

    up: bool = False
    reconnections: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    bytes_in: int = 0

    def sent(self, body: bytes) -> None:
        """One message was confirmed."""
        self.messages_out += 1
        self.bytes_out += len(body)

    def received(self, body: bytes) -> None:
        """One message was delivered."""
        self.messages_in += 1
        self.bytes_in += len(body)


@dataclass(slots=True)
class WorkCounters:
    """What a silo found in its work queue.

    Attributes:
        redelivered: deliveries that had been delivered before: their silo was killed or cut off.
        rejected: messages that were no work for this silo, or had come back too often; they are dead letters now.
        blobs_cached: blobs that a work item named, was not sent with, and found here.
        blobs_sent: blobs that came with a work item or were announced with it.
        blobs_lacking: blobs that it named, was not sent with, and did not find.
    """

    redelivered: int = 0
    rejected: int = 0
    blobs_cached: int = 0
    blobs_sent: int = 0
    blobs_lacking: int = 0
