"""Counters of the transport, for metrics: written on the event loop, read from any thread."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TrafficCounters", "WorkCounters"]


@dataclass(slots=True)
class TrafficCounters:
    """Traffic of one reconnecting connection since it was created.

    Attributes:
        up: whether it is connected and set up.
        reconnections: how often it was lost and restored.
        messages_out: messages that the broker confirmed.
        bytes_out: total size of their bodies.
        messages_in: messages that the broker delivered.
        bytes_in: total size of their bodies.
    """

    up: bool = False
    reconnections: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    bytes_in: int = 0


@dataclass(slots=True)
class WorkCounters:
    """Counters of the deliveries from a silo's work queue.

    Attributes:
        redelivered: deliveries that had been delivered before: their silo was killed or cut off.
        rejected: messages that were no work for this silo, or were redelivered too often; now dead letters.
        blobs_cached: blobs that a work item named, did not bring, and found in the store.
        blobs_sent: blobs that were attached to a work item or announced with it.
        blobs_lacking: blobs that a work item named, did not bring, and did not find in the store.
    """

    redelivered: int = 0
    rejected: int = 0
    blobs_cached: int = 0
    blobs_sent: int = 0
    blobs_lacking: int = 0
