"""Errors as they leave an execution context: named, and of TFF's own kinds too, which programs may be catching.

TFF's contexts raise gRPC's errors for what the C++ runtime says, and mark as retryable what may succeed on another try.
Imports TFF, gRPC, the plan's naming and the base.
"""

from __future__ import annotations

import grpc
import tensorflow_federated as tff

from fedbroker.errors import ComputationFailed, FedbrokerError, RuntimeUnavailable
from fedbroker.plan.naming import UNNAMED, name_of

__all__ = ["leaving"]


def leaving(error: FedbrokerError, comp: object) -> FedbrokerError:
    """``error`` of an invocation of ``comp``: the same object, now with the computation's name.

    It is a ``grpc.RpcError`` too, with ``code()`` and ``details()``, where a C++ runtime failed; and a
    ``tff.framework.RetryableError`` where it is retryable. TFF retries UNAVAILABLE and FAILED_PRECONDITION only: what
    died or was lost. A failed graph, data that do not fit, a stage whose time is up would only fail again.
    """
    error.computation = name_of(comp) if isinstance(comp, tff.framework.ConcreteComputation) else UNNAMED
    kind = type(error)
    bases: list[type[Exception]] = []
    if _status(error) is not None:
        bases.append(_RpcError)
    if error.retryable:
        bases.append(tff.framework.RetryableError)
    if bases and not issubclass(kind, tuple(bases)):
        # Its class, so that traceback, cause and fields stay what they are.
        error.__class__ = type(kind.__name__, (kind, *bases), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    return error


class _RpcError(grpc.RpcError):
    """What callers of TFF's own contexts look at."""

    def code(self) -> grpc.StatusCode:
        """The runtime's status."""
        return grpc.StatusCode[_status(self) or grpc.StatusCode.UNKNOWN.name]

    def details(self) -> str:
        """The whole error in one line."""
        return str(self)


def _status(error: BaseException) -> str | None:
    """Name of the gRPC status behind an error, or None if no runtime said anything."""
    failed = error if isinstance(error, ComputationFailed) else error.__cause__
    if isinstance(failed, ComputationFailed):
        return failed.status if failed.status in grpc.StatusCode.__members__ else grpc.StatusCode.UNKNOWN.name
    return grpc.StatusCode.UNAVAILABLE.name if isinstance(error, RuntimeUnavailable) else None
