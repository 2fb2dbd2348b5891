"""TFF's seam: execution contexts that run computations on a cohort instead of on this machine."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import sys
import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import tensorflow_federated as tff

from fedbroker.context.coordinator import Coordinator
from fedbroker.context.html import context_html
from fedbroker.context.loop import LoopThread, check_process
from fedbroker.context.run import OnRound, Run
from fedbroker.context.settings import Settings
from fedbroker.errors import ContextClosed, FedbrokerError
from fedbroker.plan import Explanation, explain_plan
from fedbroker.session.events import Event
from fedbroker.session.report import SessionReport
from fedbroker.text import one_line_repr
from fedbroker.tracebacks import install_hook, shorten

__all__ = ["AsyncBrokerContext", "SyncBrokerContext", "default_context", "replace_default"]


class _BrokerContext:
    """Common part of both contexts: a coordinator on an event loop of its own, and its end.

    The connection and the C++ runtime are made with the first computation that needs them, and end with
    :meth:`close`, when the context is collected, or with the interpreter.
    """

    def __init__(self, settings: Settings) -> None:
        check_process()
        install_hook((FedbrokerError, KeyboardInterrupt))
        self._thread = LoopThread(f"fedbroker-{settings.cohort}")
        self._coordinator = Coordinator(settings)
        self._closer = _Closer(self._thread, self._coordinator)
        self._finalizer = weakref.finalize(self, self._closer.collected)
        self._finalizer.atexit = False  # then it is closed by an exit handler, which waits

        self._previous_default: object = None  # TFF's default context before this one became it
        self._entered = False

    def _become_default(self, previous: object) -> None:
        self._previous_default = previous
        tff.framework.get_context_stack().set_default_context(self)

    def _yield_default(self) -> object:
        """Close, if this context is TFF's default and no ``with`` block holds it; return the default to go back to."""
        if self._previous_default is None or self._entered:
            return self
        tff.framework.get_context_stack().set_default_context(self._previous_default)
        self.close()
        return self._previous_default

    def _leave(self) -> None:
        """End a ``with`` block: TFF's default is again what it was before."""
        self._entered = False
        stack = tff.framework.get_context_stack()
        if self._previous_default is not None and default_context() is self:
            stack.set_default_context(self._previous_default)

    @property
    def executor_factory(self) -> object:
        """No executor factory: computations run at silos."""
        raise AttributeError(f"{type(self).__name__} has no executors of its own: computations run at silos")

    @property
    def cohort(self) -> str:
        """The cohort's name."""
        return self._coordinator.settings.cohort

    @property
    def last_session(self) -> SessionReport | None:
        """Report of the session that was started last: when each silo answered, which were dropped and why, and bytes.

        It grows while the session runs, and with late replies; None before the first session.
        """
        return self._coordinator.last_session

    @property
    def metrics_url(self) -> str | None:
        """The URL at which metrics are served; None if they are not."""
        return self._coordinator.metrics_url

    def explain(self, comp: tff.Computation) -> Explanation:
        """Describe the plan of ``comp`` in this context. Nothing is sent, and the plan is kept for its invocations.

        Raises:
            PlanError: it cannot run here; says which part and what to use instead.
        """
        handled = sys.exception()
        try:
            plan = self._thread.run(self._coordinator.plan(comp))
        except (FedbrokerError, KeyboardInterrupt) as error:
            shorten(error, handled)
            raise
        return explain_plan(plan, dropouts=self._coordinator.settings.stragglers != "fail")

    def run(
        self,
        program: str,
        rounds: int | None = None,
        *,
        start: int = 1,
        on_round: OnRound | Sequence[OnRound] = (),
    ) -> Run:
        """Name the program and its rounds, in displays and events: ``with context.run("digits", rounds=30) as run:``.

        All invocations of this context in the block belong to the run. ``for round in run`` counts the rounds, and
        ``run.report(metrics)`` ends each.

        Args:
            program: name of the program.
            rounds: number of its rounds; None if that is not known.
            start: number of the first round, for a program that continues from a checkpoint.
            on_round: called after each ``run.report`` with the round's number and its metrics, by names such as
                ``train/loss``: a function or several, such as the trackers of ``fedbroker.tracking``.

        Raises:
            UsageError: the name is empty, or a number is not positive.
        """
        return Run(program, rounds, start, on_round, owner=self._coordinator, emit=self._emit)

    def _emit(self, event: Event) -> None:
        """Emit an event on the context's loop, where all others come from, without waiting."""
        if event.name != "run_finished":
            self._thread.submit(self._coordinator.emit(event))
            return
        with contextlib.suppress(ContextClosed):  # a program may close its context in the block of its run
            self._thread.submit(self._coordinator.emit(event))

    def close(self) -> None:
        """Cancel running computations, disconnect, and end the C++ runtime. Bounded in time; may be called again.

        A closed context stays closed: each call raises :class:`fedbroker.errors.ContextClosed`.
        """
        self._finalizer.detach()
        self._closer.close()

    def __repr__(self) -> str:
        settings = self._coordinator.settings
        state = ["closed"] if self._thread.closed else []
        return one_line_repr(
            type(self).__name__, f"cohort={settings.cohort!r}", f"min_silos={settings.min_silos}", *state
        )

    def _repr_html_(self) -> str:
        return context_html(
            type(self).__name__,
            self._coordinator.settings,
            closed=self._thread.closed,
            statistics=self._coordinator.statistics(),
            last=self.last_session,
        )


class SyncBrokerContext(_BrokerContext, tff.framework.SyncExecutionContext):  # type: ignore[misc]  # TFF has no types
    """Runs each computation to its end; works inside a running event loop too (notebooks).

    A subclass of TFF's context because some code checks for that; all behaviour is defined here.

    Made by :func:`fedbroker.create_sync_execution_context`. ``with context:`` closes it at the end, and where
    :func:`fedbroker.set_sync_execution_context` set it, TFF's default context is again what it was before.
    """

    def invoke(self, comp: tff.Computation, arg: object) -> object:
        """Run ``comp``; TFF calls this for ``comp(...)``.

        Raises:
            FedbrokerError: see ``docs/errors.md``; a ``UsageError``, which is a ``TypeError`` and a ``ValueError`` too,
                where an argument is not of its type.
        """
        handled = sys.exception()
        try:
            return self._thread.run(self._coordinator.invoke(comp, arg))
        except (FedbrokerError, KeyboardInterrupt) as error:
            shorten(error, handled)
            raise

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self.close()


class AsyncBrokerContext(_BrokerContext, tff.framework.AsyncExecutionContext):  # type: ignore[misc]  # TFF has no types
    """Returns a coroutine for each computation; many may run at once, from any event loop.

    A subclass of TFF's context because some code checks for that; all behaviour is defined here.

    Made by :func:`fedbroker.create_async_execution_context`. ``async with context:`` closes it at the end, and where
    :func:`fedbroker.set_async_execution_context` set it, TFF's default context is again what it was before.
    """

    async def invoke(self, comp: tff.Computation, arg: object) -> object:
        """Run ``comp``; TFF calls this for ``await comp(...)``. Cancelling the await ends the session at the silos.

        Raises:
            FedbrokerError: see ``docs/errors.md``; a ``UsageError``, which is a ``TypeError`` and a ``ValueError`` too,
                where an argument is not of its type.
        """
        if inspect.isawaitable(arg):
            arg = await arg
        handled = sys.exception()
        try:
            return await self._thread.run_async(self._coordinator.invoke(comp, arg))
        except FedbrokerError as error:
            shorten(error, handled)
            raise

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        await asyncio.to_thread(self.close)


def default_context() -> object:
    """Return TFF's default context in this thread."""
    return tff.framework.get_context_stack()._stack[0]  # TFF has no public way to ask; its version is pinned


def replace_default() -> object:
    """Close TFF's default context if fedbroker set it and no ``with`` block holds it.

    Returns:
        The context to go back to when the one that takes its place is left.
    """
    previous = default_context()
    if not isinstance(previous, _BrokerContext):
        return previous
    return previous._yield_default()  # pyright: ignore[reportPrivateUsage] -- no user calls it


class _Closer:
    """Closes a context, once: when asked to, when the context was collected, or at the interpreter's end."""

    def __init__(self, thread: LoopThread, coordinator: Coordinator) -> None:
        self._thread = thread
        self._coordinator = coordinator
        atexit.register(self.close)

    def close(self) -> None:
        """Close it and wait for that."""
        if not self._thread.forked:  # the connection, the C++ runtime and the metrics are the parent's
            try:
                self._thread.stop(self._coordinator.close)
            finally:
                self._coordinator.close_metrics()
        atexit.unregister(self.close)

    def collected(self) -> None:
        """Close it without waiting: the collector runs in any thread, an event loop's or one that holds a lock."""
        if not self._thread.forked:
            threading.Thread(target=self.close, name="fedbroker close", daemon=True).start()
