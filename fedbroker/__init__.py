"""TensorFlow Federated over RabbitMQ: silos connect to a broker and pull their work.

Names are imported on first use, so that ``import fedbroker`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedbroker.context.api import (
        create_async_execution_context,
        create_sync_execution_context,
        set_async_execution_context,
        set_sync_execution_context,
    )
    from fedbroker.context.contexts import AsyncBrokerContext, SyncBrokerContext
    from fedbroker.context.data import SiloData, data
    from fedbroker.context.settings import Options, Timeouts
    from fedbroker.errors import FedbrokerError
    from fedbroker.plan.explain import Explanation, explain
    from fedbroker.session.cohort import Cohort
    from fedbroker.session.report import Event, SessionReport
    from fedbroker.wire.limits import Limits

__all__ = [
    "AsyncBrokerContext",
    "Cohort",
    "Event",
    "Explanation",
    "FedbrokerError",
    "Limits",
    "Options",
    "SessionReport",
    "SiloData",
    "SyncBrokerContext",
    "Timeouts",
    "__version__",
    "create_async_execution_context",
    "create_sync_execution_context",
    "data",
    "explain",
    "set_async_execution_context",
    "set_sync_execution_context",
]

__version__ = "0.1.0"

_HOMES = {
    "fedbroker.context.api": (
        "create_async_execution_context",
        "create_sync_execution_context",
        "set_async_execution_context",
        "set_sync_execution_context",
    ),
    "fedbroker.context.contexts": ("AsyncBrokerContext", "SyncBrokerContext"),
    "fedbroker.context.data": ("SiloData", "data"),
    "fedbroker.context.settings": ("Options", "Timeouts"),
    "fedbroker.errors": ("FedbrokerError",),
    "fedbroker.plan.explain": ("Explanation", "explain"),
    "fedbroker.session.cohort": ("Cohort",),
    "fedbroker.session.report": ("Event", "SessionReport"),
    "fedbroker.wire.limits": ("Limits",),
}

_MODULES = ("program", "testing")


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    if name in _MODULES:
        return importlib.import_module(f"fedbroker.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
