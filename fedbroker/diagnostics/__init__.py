"""Examines a broker from outside, step by step, and leaves nothing on it: what ``fedbroker doctor`` and ``check`` see.

Imports transport's own modules, wire and the base.
"""

from __future__ import annotations

from fedbroker.diagnostics.broker import examine
from fedbroker.diagnostics.roles import Role, coordinator_role, silo_role

__all__ = ["Role", "coordinator_role", "examine", "silo_role"]
