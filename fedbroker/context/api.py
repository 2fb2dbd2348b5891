"""Making execution contexts and making them TFF's own: the one line that a program changes.

Names and behaviour follow ``tff.backends.native``'s. Imports TFF and this package's contexts.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import tensorflow_federated as tff

from fedbroker.context.contexts import AsyncBrokerContext, SyncBrokerContext
from fedbroker.context.coordinator import Settings
from fedbroker.errors import ConfigError

__all__ = [
    "create_async_execution_context",
    "create_sync_execution_context",
    "set_async_execution_context",
    "set_sync_execution_context",
]

URL_VARIABLE = "FEDBROKER_URL"

P = ParamSpec("P")
C = TypeVar("C", SyncBrokerContext, AsyncBrokerContext)


def create_sync_execution_context(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int = 1,
    max_silos: int | None = None,
    join_timeout: float = 60.0,
    stage_timeout: float = 300.0,
    isolation: Literal["namespace", "none"] = "namespace",
) -> SyncBrokerContext:
    """A context whose computations run on a cohort of silos, one call at a time.

    Nothing is connected yet: that happens with the first computation that has clients in it. Computations without
    clients run in the local C++ runtime and never touch the broker.

    Args:
        url: of the broker, ``amqp://`` or ``amqps://``; None for the environment variable ``FEDBROKER_URL``.
        cohort: the silos' cohort.
        min_silos: an invocation waits until so many are there.
        max_silos: it takes no more than so many; None for all that are there.
        join_timeout: seconds to wait for the broker and for ``min_silos``.
        stage_timeout: seconds for each stage.
        isolation: of the coordinator's C++ runtime; ``"none"`` for hosts that isolate it by other means.

    Raises:
        ConfigError: an argument is missing or out of range.
    """
    return SyncBrokerContext(_settings(url, cohort, min_silos, max_silos, join_timeout, stage_timeout, isolation))


def create_async_execution_context(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int = 1,
    max_silos: int | None = None,
    join_timeout: float = 60.0,
    stage_timeout: float = 300.0,
    isolation: Literal["namespace", "none"] = "namespace",
) -> AsyncBrokerContext:
    """Like :func:`create_sync_execution_context`; calls return coroutines and may run side by side."""
    return AsyncBrokerContext(_settings(url, cohort, min_silos, max_silos, join_timeout, stage_timeout, isolation))


def _as_default(create: Callable[P, C], name: str) -> Callable[P, C]:
    """``create``, followed by setting what it made as TFF's default context."""

    @functools.wraps(create)
    def set_default(*args: P.args, **kwargs: P.kwargs) -> C:
        context = create(*args, **kwargs)
        tff.framework.get_context_stack().set_default_context(context)
        return context

    set_default.__name__ = set_default.__qualname__ = name
    set_default.__doc__ = f"""Make a context with :func:`{create.__name__}`, set it as TFF's default, and return it."""
    return set_default


set_sync_execution_context = _as_default(create_sync_execution_context, "set_sync_execution_context")
set_async_execution_context = _as_default(create_async_execution_context, "set_async_execution_context")


def _settings(
    url: str | None,
    cohort: str,
    min_silos: int,
    max_silos: int | None,
    join_timeout: float,
    stage_timeout: float,
    isolation: Literal["namespace", "none"],
) -> Settings:
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigError(
            "no broker was named", hint=f"pass its URL (amqps://user:password@host/vhost) or set {URL_VARIABLE}"
        )
    return Settings(url, cohort, min_silos, max_silos, join_timeout, stage_timeout, isolation)
