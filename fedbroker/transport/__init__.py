"""The transport over AMQP: the broker's topology, connections, work items and replies, blobs, and presence."""

from __future__ import annotations

from fedbroker.errors import Missing
from fedbroker.transport.amqp.delays import refusal_delays
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.transport.coordinator.transport import CoordinatorTransport
from fedbroker.transport.signed_messages import Signed
from fedbroker.transport.silo.notices import until_free
from fedbroker.transport.silo.transport import SiloTransport

__all__ = [
    "BlobStore",
    "CoordinatorTransport",
    "Dead",
    "Missing",
    "Signed",
    "SiloTransport",
    "refusal_delays",
    "until_free",
]
