"""Errors as they leave an execution context: with the computation's name, and TFF's own mark where a retry may help.

Imports TFF, the plan's naming and the base.
"""

from __future__ import annotations

import tensorflow_federated as tff

from fedbroker.errors import FedbrokerError
from fedbroker.plan.naming import UNNAMED, name_of

__all__ = ["leaving"]


def leaving(error: FedbrokerError, comp: object) -> FedbrokerError:
    """``error`` of an invocation of ``comp``, named; a ``tff.framework.RetryableError`` too if it is retryable.

    TFF retries UNAVAILABLE and FAILED_PRECONDITION only: what died or was lost. A failed graph, data that do not fit, a
    stage whose time is up would only fail again.
    """
    error.computation = name_of(comp) if isinstance(comp, tff.framework.ConcreteComputation) else UNNAMED
    if error.retryable:
        # Its class, so that traceback, cause and fields stay what they are.
        error.__class__ = _retryable(type(error))
    return error


def _retryable(kind: type[FedbrokerError]) -> type[FedbrokerError]:
    """``kind`` as TFF's RetryableError as well, under the same name."""
    if issubclass(kind, tff.framework.RetryableError):
        return kind
    return type(
        kind.__name__, (kind, tff.framework.RetryableError), {"__module__": kind.__module__, "__doc__": kind.__doc__}
    )
