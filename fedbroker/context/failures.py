"""Errors as they leave an execution context: named, and of TFF's own kinds too, which programs may be catching.

TFF's contexts raise gRPC's errors for what the C++ runtime says, and mark as retryable what may succeed on another try.
Imports TFF, gRPC, the plan's naming and the base.
"""

from __future__ import annotations

from typing import Self

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
    kind, status = type(error), _status(error)
    bases: list[type[Exception]] = []
    members: dict[str, object] = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    if status is not None:
        bases.append(grpc.RpcError)
        members |= {"code": _Code(kind.code, status), "details": FedbrokerError.__str__}
    if error.retryable:
        bases.append(tff.framework.RetryableError)
    if bases and not issubclass(kind, tuple(bases)):
        # Its class, so that traceback, cause and fields stay what they are.
        error.__class__ = type(kind.__name__, (kind, *bases), members)
    return error


class _Code(str):
    """Our code, which may be called as gRPC's are: ``error.code`` is ``"FB8002"``, ``error.code()`` a status."""

    status: grpc.StatusCode

    def __new__(cls, code: str, status: grpc.StatusCode) -> Self:
        made = super().__new__(cls, code)
        made.status = status
        return made

    def __call__(self) -> grpc.StatusCode:
        return self.status


def _status(error: FedbrokerError) -> grpc.StatusCode | None:
    """The gRPC status behind an error, or None if no runtime said anything."""
    failed = error if isinstance(error, ComputationFailed) else error.__cause__
    if isinstance(failed, ComputationFailed):
        return grpc.StatusCode.__members__.get(failed.status, grpc.StatusCode.UNKNOWN)
    return grpc.StatusCode.UNAVAILABLE if isinstance(error, RuntimeUnavailable) else None
