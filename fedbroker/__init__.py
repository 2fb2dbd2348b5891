"""TensorFlow Federated over RabbitMQ: silos dial out to a broker and pull their work.

Public are the names of this module and of ``fedbroker.errors``, ``fedbroker.program``, ``fedbroker.testing`` and
``fedbroker.tracking``; every other module is private. The names are imported when they are first used, so that
``import fedbroker`` itself costs nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if "tensorflow" not in sys.modules:  # it reads this once, when it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only: no notes about this machine's processor

if TYPE_CHECKING:
    from fedbroker import errors as errors
    from fedbroker import program as program
    from fedbroker import testing as testing
    from fedbroker import tracking as tracking
    from fedbroker.cohort import Cohort
    from fedbroker.context.api import (
        create_async_execution_context,
        create_sync_execution_context,
        set_async_execution_context,
        set_sync_execution_context,
    )
    from fedbroker.context.contexts import AsyncBrokerContext, SyncBrokerContext
    from fedbroker.context.run import Metrics, OnRound, Run
    from fedbroker.context.settings import (
        Eligible,
        Options,
        Select,
        Timeouts,
    )
    from fedbroker.context.values.data import Draw, SiloData, data
    from fedbroker.errors import FedbrokerError
    from fedbroker.plan.explain import Crossing, Explanation, explain
    from fedbroker.session.events import Event, EventDetails, EventName, Listener, Origin
    from fedbroker.session.report import (
        MaskingReport,
        SessionReport,
        SiloReport,
        StageReport,
    )
    from fedbroker.session.roster import Member
    from fedbroker.session.stage_state import OutcomeName
    from fedbroker.simulation.simulation import Simulation, simulate
    from fedbroker.wire.limits import Limits
    from fedbroker.wire.messages import Column, Source

__all__ = [
    "AsyncBrokerContext",
    "Cohort",
    "Column",
    "Crossing",
    "Draw",
    "Eligible",
    "Event",
    "EventDetails",
    "EventName",
    "Explanation",
    "FedbrokerError",
    "Limits",
    "Listener",
    "MaskingReport",
    "Member",
    "Metrics",
    "OnRound",
    "Options",
    "Origin",
    "OutcomeName",
    "Run",
    "Select",
    "SessionReport",
    "SiloData",
    "SiloReport",
    "Simulation",
    "Source",
    "StageReport",
    "SyncBrokerContext",
    "Timeouts",
    "__version__",
    "create_async_execution_context",
    "create_sync_execution_context",
    "data",
    "explain",
    "set_async_execution_context",
    "set_sync_execution_context",
    "simulate",
]

__version__ = "0.1.0"

_HOMES = {
    "fedbroker.cohort": ("Cohort",),
    "fedbroker.context.api": (
        "create_async_execution_context",
        "create_sync_execution_context",
        "set_async_execution_context",
        "set_sync_execution_context",
    ),
    "fedbroker.context.contexts": ("AsyncBrokerContext", "SyncBrokerContext"),
    "fedbroker.context.run": ("Metrics", "OnRound", "Run"),
    "fedbroker.context.values.data": ("Draw", "SiloData", "data"),
    "fedbroker.context.settings": ("Eligible", "Options", "Select", "Timeouts"),
    "fedbroker.errors": ("FedbrokerError",),
    "fedbroker.plan.explain": ("Crossing", "Explanation", "explain"),
    "fedbroker.session.events": ("Event", "EventDetails", "EventName", "Listener", "Origin"),
    "fedbroker.session.stage_state": ("OutcomeName",),
    "fedbroker.session.report": ("MaskingReport", "SessionReport", "SiloReport", "StageReport"),
    "fedbroker.session.roster": ("Member",),
    "fedbroker.simulation.simulation": ("Simulation", "simulate"),
    "fedbroker.wire.limits": ("Limits",),
    "fedbroker.wire.messages": ("Column", "Source"),
}

_MODULES = ("errors", "program", "testing", "tracking")


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(_import(module), name)
    if name in _MODULES:
        return _import(f"fedbroker.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The distribution fedbroker-core, which silos have, holds this module but not all of those that it names.
        if error.name is None or not module.startswith(error.name):
            raise
        text = f"{module} belongs to a coordinator, and only a silo is installed here"
        raise ModuleNotFoundError(text, name=error.name) from None


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
