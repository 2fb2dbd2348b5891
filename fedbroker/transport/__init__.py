"""AMQP: topology, supervised connections, work and replies, blobs, presence; the only package that knows aio-pika."""

from __future__ import annotations

from fedbroker.errors import Missing
from fedbroker.transport.answers import Dead
from fedbroker.transport.coordinator import CoordinatorEnd
from fedbroker.transport.envelopes import Signed
from fedbroker.transport.silo import SiloEnd
from fedbroker.transport.standby import until_free
from fedbroker.transport.store import BlobStore

__all__ = ["BlobStore", "CoordinatorEnd", "Dead", "Missing", "Signed", "SiloEnd", "until_free"]
