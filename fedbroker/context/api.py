"""The functions that make an execution context or set it as TFF's default: the one line that a program changes.

Names and behaviour follow ``tff.backends.native``. The four signatures are written out, so that editors and ``help``
show them; a test holds them together.
"""

from __future__ import annotations

import os
from typing import Literal, TypeVar

from fedbroker.context.contexts import AsyncBrokerContext, SyncBrokerContext, replace_default
from fedbroker.context.settings import Options, Settings, Timeouts
from fedbroker.credentials import broker_url
from fedbroker.errors import ConfigError
from fedbroker.session.events import Listener

__all__ = [
    "create_async_execution_context",
    "create_sync_execution_context",
    "set_async_execution_context",
    "set_sync_execution_context",
]

C = TypeVar("C", SyncBrokerContext, AsyncBrokerContext)


def set_sync_execution_context(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int,
    max_silos: int | None = None,
    stragglers: Literal["fail", "drop", "replace"] = "fail",
    quorum: int | None = None,
    quorum_fraction: float | None = None,
    timeouts: Timeouts | None = None,
    keys: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
    progress: bool | None = None,
    options: Options | None = None,
) -> SyncBrokerContext:
    """Make a context whose computations run on a cohort of silos, set it as TFF's default, and return it.

    Nothing is connected yet: that happens with the first computation that has clients. Computations without clients run
    in the local C++ runtime and never touch the broker.

    The context that it replaces is closed if fedbroker set that one too, unless a ``with`` block holds it. ``with`` on
    the returned context closes it at the end of the block and sets the default that was there before.

    Args:
        url: URL of the broker, ``amqp://`` or ``amqps://``; None for the environment variable ``FEDBROKER_URL``, or for
            the content of the file that ``FEDBROKER_URL_FILE`` names.
        cohort: the name of the silos' cohort.
        min_silos: the number of silos that an invocation waits for. Choose it so that an aggregate over so many silos
            may be known: with 1 it may be one silo's own value.
        max_silos: the largest number of silos in an invocation; None for all that are present.
        stragglers: how a stage treats a silo that does not answer: ``"fail"`` raises and names it; ``"drop"`` goes on
            without it if the quorum answered; ``"replace"`` does too, and a late joiner may take its place.
        quorum: the number of silos that must answer a stage; None for ``min_silos``.
        quorum_fraction: the same as a fraction of the session's membership, above 0.0 and up to 1.0; None for
            ``quorum``.
        timeouts: time limits; None for those of :class:`fedbroker.Timeouts`.
        keys: a TOML file with this coordinator's secret and its silos' public keys, as ``fedbroker admin`` writes it.
            Messages are then signed, and sealed where the file says so; messages that no silo of the file has signed
            are rejected. None for the file that ``FEDBROKER_KEYS`` names; without one, the broker is trusted.
        on_event: called with each :class:`fedbroker.Event`, on the context's own event loop; it must not block.
        progress: the display of running invocations on standard error: None shows a live display on a terminal and a
            plain line for each client stage elsewhere; False shows nothing; True shows the live display everywhere.
        options: settings that most programs leave as they are; None for those of :class:`fedbroker.Options`.

    Raises:
        ConfigError: an argument is missing or out of range, or the metrics' address is in use.
    """
    return as_default(
        SyncBrokerContext,
        _settings(
            url,
            cohort=cohort,
            min_silos=min_silos,
            max_silos=max_silos,
            stragglers=stragglers,
            quorum=quorum,
            quorum_fraction=quorum_fraction,
            timeouts=timeouts,
            keys=keys,
            on_event=on_event,
            progress=progress,
            options=options,
        ),
    )


def set_async_execution_context(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int,
    max_silos: int | None = None,
    stragglers: Literal["fail", "drop", "replace"] = "fail",
    quorum: int | None = None,
    quorum_fraction: float | None = None,
    timeouts: Timeouts | None = None,
    keys: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
    progress: bool | None = None,
    options: Options | None = None,
) -> AsyncBrokerContext:
    """Do the same as :func:`fedbroker.set_sync_execution_context`, with calls that return coroutines and may overlap.

    The parameters are those of :func:`fedbroker.set_sync_execution_context`.
    """
    return as_default(
        AsyncBrokerContext,
        _settings(
            url,
            cohort=cohort,
            min_silos=min_silos,
            max_silos=max_silos,
            stragglers=stragglers,
            quorum=quorum,
            quorum_fraction=quorum_fraction,
            timeouts=timeouts,
            keys=keys,
            on_event=on_event,
            progress=progress,
            options=options,
        ),
    )


def create_sync_execution_context(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int,
    max_silos: int | None = None,
    stragglers: Literal["fail", "drop", "replace"] = "fail",
    quorum: int | None = None,
    quorum_fraction: float | None = None,
    timeouts: Timeouts | None = None,
    keys: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
    progress: bool | None = None,
    options: Options | None = None,
) -> SyncBrokerContext:
    """Make a context whose computations run on a cohort of silos, one call at a time.

    The parameters are those of :func:`fedbroker.set_sync_execution_context`; TFF's default stays as it is.
    """
    return SyncBrokerContext(
        _settings(
            url,
            cohort=cohort,
            min_silos=min_silos,
            max_silos=max_silos,
            stragglers=stragglers,
            quorum=quorum,
            quorum_fraction=quorum_fraction,
            timeouts=timeouts,
            keys=keys,
            on_event=on_event,
            progress=progress,
            options=options,
        )
    )


def create_async_execution_context(
    url: str | None = None,
    *,
    cohort: str,
    min_silos: int,
    max_silos: int | None = None,
    stragglers: Literal["fail", "drop", "replace"] = "fail",
    quorum: int | None = None,
    quorum_fraction: float | None = None,
    timeouts: Timeouts | None = None,
    keys: str | os.PathLike[str] | None = None,
    on_event: Listener | None = None,
    progress: bool | None = None,
    options: Options | None = None,
) -> AsyncBrokerContext:
    """Make a context whose calls return coroutines, many of which may run at once.

    The parameters are those of :func:`fedbroker.set_sync_execution_context`; TFF's default stays as it is.
    """
    return AsyncBrokerContext(
        _settings(
            url,
            cohort=cohort,
            min_silos=min_silos,
            max_silos=max_silos,
            stragglers=stragglers,
            quorum=quorum,
            quorum_fraction=quorum_fraction,
            timeouts=timeouts,
            keys=keys,
            on_event=on_event,
            progress=progress,
            options=options,
        )
    )


def _settings(
    url: str | None,
    *,
    cohort: str,
    min_silos: int,
    max_silos: int | None,
    stragglers: Literal["fail", "drop", "replace"],
    quorum: int | None,
    quorum_fraction: float | None,
    timeouts: Timeouts | None,
    keys: str | os.PathLike[str] | None,
    on_event: Listener | None,
    progress: bool | None,
    options: Options | None,
) -> Settings:
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
        stragglers=stragglers,
        quorum=quorum,
        quorum_fraction=quorum_fraction,
        timeouts=timeouts or Timeouts(),
        keys=keys or os.environ.get("FEDBROKER_KEYS") or None,
        on_event=on_event,
        progress=progress,
        options=options or Options(),
    )


def as_default(kind: type[C], settings: Settings) -> C:
    """Make a context and set it as TFF's default, in place of one that fedbroker set, which is closed."""
    previous = replace_default()  # first: the new context may want the same address for its metrics
    context = kind(settings)
    context._become_default(previous)  # pyright: ignore[reportPrivateUsage] -- no user calls it
    return context
