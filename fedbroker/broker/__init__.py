"""A private RabbitMQ node from the installed server, for demos, tests and a quick look: nothing shared, nothing left.

Imports the base only (errors, deadline); never TFF.
"""

from __future__ import annotations

from fedbroker.broker.node import PrivateBroker

__all__ = ["PrivateBroker"]
