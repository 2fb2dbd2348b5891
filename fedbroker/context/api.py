"""Making execution contexts and making them TFF's own: the one line that a program changes.

Names and behaviour follow ``tff.backends.native``'s. Imports TFF, this package's
contexts and wire's limits.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import tensorflow_federated as tff

from fedbroker.context.contexts import AsyncBrokerContext, SyncBrokerContext
from fedbroker.context.settings import Eligible, Select, Settings
from fedbroker.credentials import broker_url
from fedbroker.errors import ConfigError
from fedbroker.session.recorder import Listener
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

__all__ = [
    "create_async_execution_context",
    "create_sync_execution_context",
    "set_async_execution_context",
    "set_sync_execution_context",
]

P = ParamSpec("P")
C = TypeVar("C", SyncBrokerContext, AsyncBrokerContext)


def _settings(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int = 1,
    max_silos: int | None = None,
    select: Select = "all",
    eligible: Eligible | None = None,
    join_timeout: float = 60.0,
    stage_timeout: float = 300.0,
    deadline: float | None = None,
    stragglers: Literal["fail", "drop", "replace"] = "fail",
    quorum: int | float | None = None,
    grace: float | None = None,
    retries: int = 2,
    default_num_clients: int | None = None,
    secure_sum: Literal["refuse", "plaintext"] = "refuse",
    isolation: Literal["namespace", "none"] = "namespace",
    on_event: Listener | None = None,
    journal: str | os.PathLike[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    metrics: str | None = None,
) -> Settings:
    """Nothing is connected yet: that happens with the first computation that has clients in it.

    Computations without clients run in the local C++ runtime and never touch the broker.

    Args:
        url: of the broker, ``amqp://`` or ``amqps://``; None for the environment variable ``FEDBROKER_URL``, or
            for what is in the file that ``FEDBROKER_URL_FILE`` names.
        cohort: the silos' cohort.
        min_silos: an invocation waits until so many are there.
        max_silos: it takes no more than so many; None for all that are there.
        select: who takes part where more are there: ``"all"`` (with ``max_silos``, the first by name), ``"random"``, or
            a function that gets the silos that are there and returns some of them.
        eligible: a rule on what a silo announced (name, version, capabilities, data sources); others take no part.
        join_timeout: seconds to wait for the broker and for ``min_silos``.
        stage_timeout: seconds for each stage.
        deadline: seconds for an invocation as a whole, with all that it waits for and all its attempts.
        stragglers: what becomes of a stage when a silo does not answer: ``"fail"``, by name; ``"drop"``, go on without
            it if the quorum answered; ``"replace"``, the same, and a late joiner may take its place.
        quorum: how many must answer a stage: a number of silos, or a fraction (a float up to 1.0) of the session's
            membership; None for ``min_silos``.
        grace: seconds after the quorum has answered when a stage closes, before its time is up; None waits for all.
        retries: how often an invocation is tried again, with a fresh membership, after something died or was lost; what
            would only fail again (data, the computation, time) is not.
        default_num_clients: how many clients there are where no argument tells; None for one at each silo.
        secure_sum: what becomes of ``federated_secure_*``: a ``PlanError``, or, with ``"plaintext"``, the same sums in
            the open, with TFF's range checks: the coordinator then sees each silo's sum.
        isolation: of the coordinator's C++ runtime; ``"none"`` for hosts that isolate it by other means.
        on_event: called with each :class:`fedbroker.Event`: who joins and leaves, how a stage goes on. It is called on
            the context's own event loop and must not block.
        journal: a directory in which sessions under way are written down: if the program is killed and run again, the
            same computation with the same argument goes on where it was, and no silo computes twice. It holds partial
            aggregates; one program uses it at a time.
        limits: bounds on messages, blobs and what silos may ask of this process.
        metrics: ``HOST:PORT``, such as ``"127.0.0.1:9464"``, where the context's metrics are served over HTTP for
            Prometheus, without a password, until it is closed; None for nowhere. Port 0 is any free one:
            ``context.metrics_url`` tells.

    Raises:
        ConfigError: an argument is missing or out of range, or the metrics' address is in use.
    """
    url = url or broker_url()
    if not url:
        raise ConfigError(
            "no broker was named",
            hint="pass its URL (amqps://user:password@host/vhost), or set FEDBROKER_URL or FEDBROKER_URL_FILE",
        )
    return Settings(
        url=url,
        cohort=cohort,
        min_silos=min_silos,
        max_silos=max_silos,
        select=select,
        eligible=eligible,
        join_timeout=join_timeout,
        stage_timeout=stage_timeout,
        deadline=deadline,
        stragglers=stragglers,
        quorum=quorum,
        grace=grace,
        retries=retries,
        default_num_clients=default_num_clients,
        secure_sum=secure_sum,
        isolation=isolation,
        on_event=on_event,
        journal=journal,
        limits=limits,
        metrics=metrics,
    )


def _creates(kind: type[C], settings: Callable[P, Settings], name: str, what: str) -> Callable[P, C]:
    """A function that makes a context of that kind, with the arguments of ``settings``."""

    @functools.wraps(settings)
    def create(*args: P.args, **kwargs: P.kwargs) -> C:
        return kind(settings(*args, **kwargs))

    return _called(create, name, f"{what}\n\n    {settings.__doc__}")


def _sets(create: Callable[P, C], name: str) -> Callable[P, C]:
    """``create``, followed by setting what it made as TFF's default context."""

    @functools.wraps(create)
    def set_default(*args: P.args, **kwargs: P.kwargs) -> C:
        context = create(*args, **kwargs)
        tff.framework.get_context_stack().set_default_context(context)
        return context

    return _called(
        set_default, name, f"Make a context with :func:`{create.__name__}`, set it as TFF's default, and return it."
    )


def _called(function: Callable[P, C], name: str, doc: str) -> Callable[P, C]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__annotations__["return"] = "SyncBrokerContext" if "sync" in name else "AsyncBrokerContext"
    return function


create_sync_execution_context = _creates(
    SyncBrokerContext,
    _settings,
    "create_sync_execution_context",
    "A context whose computations run on a cohort of silos, one call at a time.",
)
create_async_execution_context = _creates(
    AsyncBrokerContext,
    _settings,
    "create_async_execution_context",
    "Like :func:`create_sync_execution_context`; calls return coroutines and may run side by side.",
)
set_sync_execution_context = _sets(create_sync_execution_context, "set_sync_execution_context")
set_async_execution_context = _sets(create_async_execution_context, "set_async_execution_context")
