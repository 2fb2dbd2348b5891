"""TFF's C++ runtime as an isolated child process, and an asyncio client of its gRPC service.

Names are imported on first use: the host process (``host``) must stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedbroker.runtime.executor import Executor, Ref
    from fedbroker.runtime.runtime import Isolation, Runtime

__all__ = ["Executor", "Isolation", "Ref", "Runtime"]


def __getattr__(name: str) -> object:
    if name in ("Executor", "Ref"):
        from fedbroker.runtime import executor

        return getattr(executor, name)
    if name in ("Isolation", "Runtime"):
        from fedbroker.runtime import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
