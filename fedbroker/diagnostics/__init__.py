"""Diagnosis of a broker over AMQP for ``fedbroker doctor`` and ``check``. It leaves nothing on the broker."""

from __future__ import annotations

from fedbroker.diagnostics.broker import examine
from fedbroker.diagnostics.topology import Role, coordinator_role, silo_role

__all__ = ["Role", "coordinator_role", "examine", "silo_role"]
