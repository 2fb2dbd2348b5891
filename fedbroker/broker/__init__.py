"""Private RabbitMQ nodes from the installed server, for demos, tests and experiments."""

from __future__ import annotations

from fedbroker.broker.node import PrivateBroker

__all__ = ["PrivateBroker"]
