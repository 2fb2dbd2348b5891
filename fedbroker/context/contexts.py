"""TFF's seam: execution contexts that run computations on a cohort instead of on this machine.

Imports TFF and this package's coordinator.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from types import TracebackType
from typing import Self

import tensorflow_federated as tff

from fedbroker.context.coordinator import Coordinator
from fedbroker.context.loop import LoopThread
from fedbroker.context.settings import Settings
from fedbroker.plan import Explanation, explain_plan
from fedbroker.session.report import SessionReport

__all__ = ["AsyncBrokerContext", "SyncBrokerContext"]


class _BrokerContext:
    """What both contexts share: a coordinator on an event loop of its own, and its end.

    The connection and the C++ runtime are made with the first computation that needs them, and end with
    :meth:`close`, when the context is collected, or with the interpreter.
    """

    def __init__(self, settings: Settings) -> None:
        self._thread = LoopThread(f"fedbroker-{settings.cohort}")
        self._coordinator = Coordinator(settings)
        self._finalizer = weakref.finalize(self, _close, self._thread, self._coordinator)

    @property
    def executor_factory(self) -> object:
        """There is none: computations run at silos."""
        raise AttributeError(f"{type(self).__name__} has no executors of its own: computations run at silos")

    @property
    def cohort(self) -> str:
        """The cohort's name."""
        return self._coordinator.settings.cohort

    @property
    def last_session(self) -> SessionReport | None:
        """What became of the session that was started last: who answered when, who was dropped and why, and bytes.

        It grows while the session runs, and with what comes late; None before the first session.
        """
        return self._coordinator.last_session

    @property
    def metrics_url(self) -> str | None:
        """Where the metrics are served; None where they are not."""
        return self._coordinator.metrics_url

    def explain(self, comp: tff.Computation) -> Explanation:
        """What running ``comp`` in this context will take; nothing is sent, and the plan is kept for its invocations.

        Raises:
            PlanError: it cannot run here; says which part and what to use instead.
        """
        return explain_plan(self._thread.run(self._coordinator.plan(comp)))

    def close(self) -> None:
        """Disconnect, and end the C++ runtime. Bounded in time; may be called again."""
        self._finalizer()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._coordinator.settings!r})"


class SyncBrokerContext(_BrokerContext, tff.framework.SyncExecutionContext):  # type: ignore[misc]  # TFF has no types
    """Runs each computation to its end; works inside a running event loop too (notebooks).

    TFF's own kind of context in name only, since some code asks for that; all that it does is done here.

    Made by :func:`fedbroker.create_sync_execution_context`. Usable as ``with ctx:``, which closes it; to have
    computations run on it, it must be set as TFF's context.
    """

    def invoke(self, comp: tff.Computation, arg: object) -> object:
        """What TFF calls for ``comp(...)``.

        Raises:
            FedbrokerError: see ``docs/errors.md``; a ``UsageError``, which is a ``TypeError`` and a ``ValueError`` too,
                where an argument is not of its type.
        """
        return self._thread.run(self._coordinator.invoke(comp, arg))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncBrokerContext(_BrokerContext, tff.framework.AsyncExecutionContext):  # type: ignore[misc]  # TFF has no types
    """Returns a coroutine for each computation; many may be under way at once, from any event loop.

    TFF's own kind of context in name only, since some code asks for that; all that it does is done here.

    Made by :func:`fedbroker.create_async_execution_context`. Usable as ``async with ctx:``, which closes it.
    """

    async def invoke(self, comp: tff.Computation, arg: object) -> object:
        """What TFF calls for ``await comp(...)``; cancelling the await ends the session at the silos.

        Raises:
            FedbrokerError: see ``docs/errors.md``; a ``UsageError``, which is a ``TypeError`` and a ``ValueError`` too,
                where an argument is not of its type.
        """
        if inspect.isawaitable(arg):
            arg = await arg
        return await self._thread.await_(self._coordinator.invoke(comp, arg))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)


def _close(thread: LoopThread, coordinator: Coordinator) -> None:
    try:
        if thread.started:
            thread.run(coordinator.close())
        thread.stop()
    finally:
        coordinator.close_metrics()
