"""Making execution contexts and making them TFF's own: the one line that a program changes.

Names and behaviour follow ``tff.backends.native``'s. Imports TFF, this package's
contexts and wire's limits.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

from fedbroker.context.contexts import AsyncBrokerContext, SyncBrokerContext, replace_default
from fedbroker.context.settings import Eligible, Select, Settings
from fedbroker.credentials import broker_url
from fedbroker.errors import ConfigError
from fedbroker.session.events import Listener
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
    merge_order: Literal["membership", "arrival"] = "membership",
    retries: int = 2,
    default_num_clients: int | None = None,
    secure_sum: Literal["refuse", "plaintext"] = "refuse",
    isolation: Literal["namespace", "none"] = "namespace",
    runtime_confinement: Literal["best-effort", "required", "off"] = "best-effort",
    runtime_memory_bytes: int | None = None,
    on_event: Listener | None = None,
    progress: bool | None = None,
    journal: str | os.PathLike[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    compression: Literal["off", "auto", "on"] = "off",
    keys: str | os.PathLike[str] | None = None,
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
        join_timeout: seconds to wait for a broker that does not listen yet, and then for ``min_silos``; a refused
            login, a wrong virtual host or a failure of TLS is not waited for.
        stage_timeout: seconds for each stage.
        deadline: seconds for an invocation as a whole, with all that it waits for and all its attempts.
        stragglers: what becomes of a stage when a silo does not answer: ``"fail"``, by name; ``"drop"``, go on without
            it if the quorum answered; ``"replace"``, the same, and a late joiner may take its place.
        quorum: how many must answer a stage: a number of silos, or a fraction (a float up to 1.0) of the session's
            membership; None for ``min_silos``.
        grace: seconds after the quorum has answered when a stage closes, before its time is up; None waits for all.
        merge_order: in which silos' partial aggregates are merged, as they come: ``"membership"``, so that the same
            answers give the same bits, unless more than 128 MiB of them would have to be held for that; ``"arrival"``,
            with the least memory. ``last_session`` says which it was.
        retries: how often an invocation is tried again, with a fresh membership, after something died or was lost; what
            would only fail again (data, the computation, time) is not.
        default_num_clients: how many clients there are where no argument tells; None for one at each silo.
        secure_sum: what becomes of ``federated_secure_*``: a ``PlanError``, or, with ``"plaintext"``, the same sums in
            the open, with TFF's range checks: the coordinator then sees each silo's sum.
        isolation: of the coordinator's C++ runtime; ``"none"`` for hosts that isolate it by other means.
        runtime_confinement: of the coordinator's C++ runtime, behind the namespaces: ``"required"`` does not start it
            where a graph in it could read this user's files; ``"off"`` confines nothing.
        runtime_memory_bytes: what the coordinator's C++ runtime may allocate; None for three quarters of the memory.
        on_event: called with each :class:`fedbroker.Event`: who joins and leaves, how a stage goes on. It is called on
            the context's own event loop and must not block.
        progress: what standard error shows of invocations under way: None, a live display where it is a terminal and
            one plain line for each client stage elsewhere; False, nothing; True, the live display wherever it goes.
        journal: a directory in which sessions under way are written down: if the program is killed and run again, the
            same computation with the same argument goes on where it was, and no silo computes twice. It holds partial
            aggregates; one program uses it at a time.
        limits: bounds on messages, blobs and what silos may ask of this process.
        compression: of the models and other large values that go out, by zstd: ``"auto"`` compresses those of which a
            sample shrinks, ``"on"`` all. A silo's own setting says the same of its results.
        keys: a TOML file with this coordinator's secret and its silos' public keys, as ``fedbroker admin`` writes it:
            what is sent is signed then, and sealed where the file says so, and nothing is believed that a silo of the
            file has not signed; None: the broker is trusted. Without it, ``FEDBROKER_KEYS`` names the file.
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
        merge_order=merge_order,
        retries=retries,
        default_num_clients=default_num_clients,
        secure_sum=secure_sum,
        isolation=isolation,
        runtime_confinement=runtime_confinement,
        runtime_memory_bytes=runtime_memory_bytes,
        on_event=on_event,
        progress=progress,
        journal=journal,
        limits=limits,
        compression=compression,
        keys=keys or os.environ.get("FEDBROKER_KEYS") or None,
        metrics=metrics,
    )


def _takes(settings: Callable[P, Settings]) -> Callable[[Callable[[Settings], C]], Callable[P, C]]:
    """Make a function of settings one of their arguments, with their documentation after its own."""

    def decorate(function: Callable[[Settings], C]) -> Callable[P, C]:
        @functools.wraps(settings)
        def taking(*args: P.args, **kwargs: P.kwargs) -> C:
            return function(settings(*args, **kwargs))

        taking.__name__, taking.__qualname__ = function.__name__, function.__qualname__
        taking.__doc__ = f"{inspect.getdoc(function)}\n\n{inspect.getdoc(settings)}"
        taking.__annotations__["return"] = function.__annotations__["return"]
        return taking

    return decorate


def _as_default(kind: type[C], settings: Settings) -> C:
    before = replace_default()  # first: the new context may want the same address for its metrics
    context = kind(settings)
    context._become_default(before)
    return context


@_takes(_settings)
def create_sync_execution_context(settings: Settings) -> SyncBrokerContext:
    """A context whose computations run on a cohort of silos, one call at a time."""
    return SyncBrokerContext(settings)


@_takes(_settings)
def create_async_execution_context(settings: Settings) -> AsyncBrokerContext:
    """Like :func:`create_sync_execution_context`; calls return coroutines and may run side by side."""
    return AsyncBrokerContext(settings)


@_takes(_settings)
def set_sync_execution_context(settings: Settings) -> SyncBrokerContext:
    """Make a context with :func:`create_sync_execution_context`, set it as TFF's default, and return it."""
    return _as_default(SyncBrokerContext, settings)


@_takes(_settings)
def set_async_execution_context(settings: Settings) -> AsyncBrokerContext:
    """Make a context with :func:`create_async_execution_context`, set it as TFF's default, and return it."""
    return _as_default(AsyncBrokerContext, settings)
