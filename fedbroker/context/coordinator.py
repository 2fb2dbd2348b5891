"""The coordinator: plans, C++ runtime and cohort of the process that runs the program, each created on first use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import tensorflow_federated as tff

import fedbroker
from fedbroker import tracing
from fedbroker.context.invocation import Attempt, invoke
from fedbroker.context.loop import runtime_starts
from fedbroker.context.progress import Progress
from fedbroker.context.retry import with_retries
from fedbroker.context.selection import Requirements, choose, pool_of
from fedbroker.context.settings import Settings
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerUnreachable, FedbrokerError
from fedbroker.lru import LruMap
from fedbroker.metrics.coordinator import CoordinatorMetrics
from fedbroker.metrics.exposition import Exposition
from fedbroker.plan import Plan, make_plan
from fedbroker.plan.blocks import UNNAMED, name_of
from fedbroker.plan.functions import holds_function, specialize
from fedbroker.runtime import Executor, Runtime
from fedbroker.runtime.runtimes import Runtimes
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.events import Event, EventDetails, both, emit
from fedbroker.session.journal import Journal
from fedbroker.session.report import SessionReport, Statistics
from fedbroker.session.roster import Member
from fedbroker.session.session import Session
from fedbroker.text import seconds_text

__all__ = ["Coordinator"]

MAX_PLANS = 128
"""Number of plans entry, the last used ones: a program that builds a computation in each round must not fill memory."""


class Coordinator:
    """The part of a context that runs computations on one cohort. All coroutines run on one event loop.

    Raises:
        ConfigError: metrics cannot be served at the address in the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._progress = Progress(settings.cohort, settings.progress)
        self._plans: LruMap[int, tuple[tff.Computation, asyncio.Task[Plan]]] = LruMap(MAX_PLANS)
        self._specialized: LruMap[tff.Computation, tff.Computation] = LruMap(MAX_PLANS)
        self._lock = asyncio.Lock()
        self._opening = asyncio.Lock()  # a separate lock: computations without silos do not wait for the broker
        self._cohort: CoordinatorCohort | None = None
        self._runtimes: Runtimes | None = None
        self._journal: Journal | None = None
        self._last: Session | None = None
        self._listener = both(self._progress.listener, settings.on_event)
        self._exposition: Exposition | None = None
        if settings.options.metrics is not None:
            metrics = CoordinatorMetrics(settings.cohort, statistics=self._statistics, restarts=self._restarts)
            self._exposition = Exposition(settings.options.metrics, metrics.registry)
            self._listener = both(metrics.on_event, self._listener)

    async def invoke(self, comp: tff.Computation, argument: object) -> object:
        """Run a computation, with retries; see :func:`fedbroker.context.invocation.invoke`."""
        tracing.start("fedbroker-coordinator")
        watch = self._progress.watch()
        with tracing.span("invocation", cohort=self.settings.cohort) as span:
            try:
                called, rest = await self._with_functions(comp, argument)
                plan = await self.plan(called)
                span.set(computation=plan.name, stages=len(plan.client_stages))
                watch.planned(plan.name, len(plan.client_stages))
                join = Deadline.after(self.settings.timeouts.join)  # for all attempts: a retry gets no further time
                result = await with_retries(
                    lambda deadline: invoke(plan, rest, self, Attempt(deadline, join, watch)),
                    retries=self.settings.options.retries,
                    seconds=self.settings.timeouts.total,
                    on_retry=self._on_retry,
                )
            except BaseException as error:
                await watch.ended(error)
                if isinstance(error, FedbrokerError):
                    error.computation = (
                        name_of(comp) if isinstance(comp, tff.framework.ConcreteComputation) else UNNAMED
                    )
                raise
            await watch.ended()
            return result

    @property
    def last_session(self) -> SessionReport | None:
        """The report so far on the session that was started last; None before the first."""
        return None if self._last is None else self._last.recorder.report

    @property
    def metrics_url(self) -> str | None:
        """The URL at which metrics are served; None if they are not."""
        return None if self._exposition is None else self._exposition.url

    def close_metrics(self) -> None:
        """Stop serving metrics; may be called from any thread, and repeatedly."""
        if self._exposition is not None:
            self._exposition.close()

    def _statistics(self) -> Statistics | None:
        cohort = self._cohort
        return None if cohort is None else cohort.statistics()

    def _restarts(self) -> int:
        runtimes = self._runtimes
        return 0 if runtimes is None else runtimes.restarts

    def _on_retry(self, number: int, error: FedbrokerError) -> None:
        details: EventDetails = {"attempt": number, "of": self.settings.options.retries + 1, "reason": str(error)}
        emit(self._listener, Event("invocation_retried", details=details))

    async def _with_functions(self, comp: tff.Computation, argument: object) -> tuple[tff.Computation, object]:
        """Return the computation to plan and its argument: those given, unless functions are among the arguments."""
        if not (isinstance(comp, tff.framework.ConcreteComputation) and holds_function(comp.type_signature.parameter)):
            return comp, argument
        specialized, rest = await asyncio.to_thread(specialize, comp, argument)
        specialized = self._specialized[specialized] = self._specialized.get(
            specialized, specialized
        )  # equal computations share a plan
        return specialized, rest

    async def plan(self, comp: tff.Computation) -> Plan:
        """Return the plan of a computation, made once.

        Computations are compared by identity, because comparing two serializes both. Concurrent callers wait for the
        same plan, which is finished even if all of them are cancelled.
        """
        entry = self._plans.use(id(comp))
        if entry is None:
            making = asyncio.create_task(
                asyncio.to_thread(make_plan, comp, secure_sum=self.settings.options.secure_sum)
            )
            making.add_done_callback(lambda plan: self._forget_failed(id(comp), plan))
            entry = self._plans[id(comp)] = comp, making
        return await asyncio.shield(entry[1])

    def _forget_failed(self, key: int, plan: asyncio.Task[Plan]) -> None:
        failed = plan.cancelled() or plan.exception() is not None
        if failed and key in self._plans and self._plans[key][1] is plan:
            del self._plans[key]

    async def close(self) -> None:
        """Disconnect, stop the runtime and leave nothing behind. Bounded in time; idempotent."""
        async with self._opening, self._lock:
            cohort, self._cohort = self._cohort, None
            runtimes, self._runtimes = self._runtimes, None
            journal, self._journal = self._journal, None
        if cohort is not None:
            await cohort.close()
        if journal is not None:
            journal.close()
        if runtimes is not None:
            await runtimes.close()

    async def executor(self, clients: int) -> Executor:
        """Return an executor of the C++ runtime with that many clients."""
        async with self._lock:
            if self._runtimes is None:
                runtime_starts()
                runtimes = Runtimes(self._runtime)
                await runtimes.start()
                self._runtimes = runtimes
        return await self._runtimes.executor(clients)

    def _runtime(self) -> Runtime:
        settings = self.settings
        return Runtime(
            isolation=settings.options.isolation,
            memory=settings.options.runtime_memory_bytes,
            confinement=settings.options.runtime_confinement,
        )

    async def gather(self, requirements: Requirements, attempt: Attempt) -> Sequence[Member]:
        """Wait for the silos that the requirements name, and return a membership."""
        settings = self.settings
        pool = pool_of(requirements, settings)
        cohort = await self._connected_cohort(attempt)
        seconds = min(settings.timeouts.join, attempt.deadline.left())
        attempt.watch.waits()
        return choose(await cohort.gather(settings.min_silos, seconds, pool), requirements, settings)

    async def _connected_cohort(self, attempt: Attempt) -> CoordinatorCohort:
        """Return the cohort, connected: until ``attempt.join``, wait for a broker that does not listen yet."""
        settings = self.settings
        async with self._opening:
            if self._cohort is None:
                if settings.options.journal is not None and self._journal is None:
                    self._journal = await asyncio.to_thread(Journal, settings.options.journal)
                cohort = CoordinatorCohort(
                    settings.url,
                    settings.cohort,
                    version=fedbroker.__version__,
                    limits=settings.limits,
                    compression=settings.options.compression,
                    keys=settings.trusted,
                    on_event=self._listener,
                    journal=self._journal,
                )
                try:
                    await cohort.open(
                        Deadline.after(settings.timeouts.join).earlier(attempt.deadline), attempt.join.left()
                    )
                except BaseException as error:
                    await asyncio.shield(cohort.close())
                    if isinstance(error, BrokerUnreachable) and error.retryable:
                        raise _waited(error, settings.timeouts.join + time.monotonic() - attempt.join.at) from None
                    raise
                self._cohort = cohort
            return self._cohort

    async def start_session(
        self, members: Sequence[Member], clients: Mapping[str, int], fingerprint: str, attempt: Attempt
    ) -> Session:
        """Start a session with a membership and the number of clients of each member."""
        assert self._cohort is not None, "a membership comes from a cohort"
        settings = self.settings
        self._last = await self._cohort.session(
            members,
            clients,
            settings.timeouts.stage,
            policy=settings.policy,
            deadline=attempt.deadline,
            fingerprint=fingerprint,
        )
        attempt.watch.runs(self._last)
        return self._last

    async def resume_session(self, fingerprint: str, attempt: Attempt) -> Session | None:
        """Resume the session of the same computation in which an earlier process was killed; None if none was."""
        cohort = await self._connected_cohort(attempt)
        assert self._journal is not None
        unfinished = self._journal.take(fingerprint)
        if unfinished is None:
            return None
        self._last = cohort.resume(unfinished, self.settings.timeouts.stage, self.settings.policy, attempt.deadline)
        attempt.watch.runs(self._last)
        return self._last


def _waited(error: BrokerUnreachable, seconds: float) -> BrokerUnreachable:
    """Return the same error, with the seconds for which the broker was waited for."""
    what = f"the broker could not be reached within {seconds_text(seconds)}: {error.what}"
    return BrokerUnreachable(what, retryable=True, hint=error.hint)
