"""The coordinator: plans, C++ runtime and cohort of the process that runs the program, each created on first use."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import tensorflow_federated as tff

import fedbroker
from fedbroker import tracing
from fedbroker.context.invocation import Attempt, invoke
from fedbroker.context.loop import runtime_starts
from fedbroker.context.orders import InvocationOrders, RoundCounter
from fedbroker.context.progress import Progress
from fedbroker.context.run import origin_of
from fedbroker.context.selection import Requirements, choose, pool_of
from fedbroker.context.settings import Settings
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerUnreachable, DeadlineExceeded, FedbrokerError
from fedbroker.lru import LruMap
from fedbroker.metrics.coordinator import CoordinatorMetrics
from fedbroker.metrics.exposition import Exposition
from fedbroker.plan import Plan, make_plan
from fedbroker.plan.blocks import UNNAMED, name_of
from fedbroker.plan.functions import holds_function, specialize
from fedbroker.runtime import Executor, Runtime
from fedbroker.runtime.runtimes import Runtimes
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.events import Event, EventDetails, Listener, emit
from fedbroker.session.journal import Journal
from fedbroker.session.report import SessionReport, Statistics
from fedbroker.session.roster import Member
from fedbroker.session.session import Session
from fedbroker.text import seconds_text
from fedbroker.transport.coordinator.events import EventPublisher

__all__ = ["Coordinator", "with_retries"]

T = TypeVar("T")

MAX_PLANS: Final = 128
"""Number of plans entry, the last used ones: a program that builds a computation in each round must not fill memory."""

RETRY_PAUSE: Final = 0.5
"""Seconds before the second attempt, doubled for each further one, with jitter: a process that died needs time to
restart."""

OVERTIME: Final = 1.0
"""Seconds beyond the deadline after which an invocation is cancelled. Until then a step can stop by itself, with an
error that says more."""


class Coordinator:
    """The part of a context that runs computations on one cohort. All coroutines run on one event loop.

    Raises:
        ConfigError: metrics cannot be served at the address in the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        shown = settings.progress is not False
        self._progress = Progress(settings.cohort, settings.progress or None) if shown else None
        self._plans: LruMap[int, tuple[tff.Computation, Plan]] = LruMap(MAX_PLANS)  # by the computation's id
        self._planning: dict[int, asyncio.Task[Plan]] = {}
        self._specialized: LruMap[tff.Computation, tff.Computation] = LruMap(MAX_PLANS)
        self._rounds = RoundCounter()
        self._lock = asyncio.Lock()
        self._opening = asyncio.Lock()  # a separate lock: computations without silos do not wait for the broker
        self._cohort: CoordinatorCohort | None = None
        self._runtimes: Runtimes | None = None
        self._journal: Journal | None = None
        self._last: Session | None = None
        self._listeners: list[Listener] = []
        self._exposition: Exposition | None = None
        if settings.options.metrics is not None:
            metrics = CoordinatorMetrics(settings.cohort, statistics=self.statistics, restarts=self._restarts)
            self._exposition = Exposition(settings.options.metrics, metrics.registry)
            self._listeners.append(metrics.on_event)
        if self._progress is not None:
            self._listeners.append(self._progress.on_event)
        self._publisher: EventPublisher | None = None
        if settings.publishes_events:
            self._publisher = EventPublisher(settings.url, settings.cohort)
            self._listeners.append(self._publish)
        if settings.on_event is not None:
            self._listeners.append(settings.on_event)

    async def invoke(self, comp: tff.Computation, argument: object) -> object:
        """Run a computation, with retries; see :func:`fedbroker.context.invocation.invoke`."""
        tracing.start("fedbroker-coordinator")
        began, watch = time.monotonic(), None
        with tracing.span("invocation", cohort=self.settings.cohort) as span:
            try:
                plan, argument = await self._plan_call(comp, argument)
                stages, origin = len(plan.client_stages), origin_of(self, plan.name)
                span.set(computation=plan.name, stages=stages)
                if self._progress is not None and stages:
                    watch = self._progress.watch(plan.name, stages, began, origin.run)
                orders = InvocationOrders(self._rounds, plan, argument)
                join = Deadline.after(self.settings.timeouts.join)  # for all attempts: a retry gets no further time
                result = await with_retries(
                    lambda deadline: invoke(plan, argument, self, Attempt(deadline, join, watch, orders, origin)),
                    retries=self.settings.options.retries,
                    seconds=self.settings.timeouts.total,
                    on_retry=self._on_retry,
                )
            except BaseException as error:
                if watch is not None:
                    await watch.ended(error)
                if isinstance(error, FedbrokerError):
                    error.computation = (
                        name_of(comp) if isinstance(comp, tff.framework.ConcreteComputation) else UNNAMED
                    )
                raise
            if watch is not None:
                await watch.ended()
            return result

    async def emit(self, event: Event) -> None:
        """Log an event of the program, and pass it to the listeners."""
        emit(self._listeners, event)

    def _publish(self, event: Event) -> None:
        """Publish an event for boards; it is on its way when this returns, or never."""
        if self._publisher is not None:
            position = {"name": event.name, "session": event.session, "stage": event.stage, "silo": event.silo}
            self._publisher.put({**position, "details": event.details})

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

    def statistics(self) -> Statistics | None:
        """Return the cohort as it is now; None before the first connection. May be called from any thread."""
        cohort = self._cohort
        return None if cohort is None else cohort.statistics()

    def _restarts(self) -> int:
        runtimes = self._runtimes
        return 0 if runtimes is None else runtimes.restarts

    def _on_retry(self, number: int, error: FedbrokerError) -> None:
        details: EventDetails = {"attempt": number, "of": self.settings.options.retries + 1, "reason": str(error)}
        emit(self._listeners, Event("invocation_retried", details=details))

    async def _plan_call(self, comp: tff.Computation, argument: object) -> tuple[Plan, object]:
        """Return the plan of a call and its argument, of which functions have become parts of the computation."""
        if (planned := self._plans.use(id(comp))) is not None:  # it takes no functions
            return planned[1], argument
        if isinstance(comp, tff.framework.ConcreteComputation) and holds_function(comp.type_signature.parameter):
            specialized, argument = await asyncio.to_thread(specialize, comp, argument)
            comp = self._specialized.get(specialized, specialized)  # equal computations share a plan
            self._specialized[specialized] = comp
        return await self.plan(comp), argument

    async def plan(self, comp: tff.Computation) -> Plan:
        """Return the plan of a computation, made once.

        Computations are compared by identity, because comparing two serializes both. Concurrent callers wait for the
        same plan, which is finished even if all of them are cancelled.
        """
        if (planned := self._plans.use(id(comp))) is not None:
            return planned[1]
        planning = self._planning.get(id(comp))
        if planning is None:
            making = asyncio.to_thread(make_plan, comp, secure_sum=self.settings.secure_sum)
            planning = self._planning[id(comp)] = asyncio.create_task(making)
            planning.add_done_callback(partial(self._planned, comp))
        return await asyncio.shield(planning)

    def _planned(self, comp: tff.Computation, planning: asyncio.Task[Plan]) -> None:
        """Keep a plan that was made; after an error, it is made again."""
        del self._planning[id(comp)]
        if not planning.cancelled() and planning.exception() is None:
            self._plans[id(comp)] = comp, planning.result()

    async def close(self) -> None:
        """Disconnect, stop the runtime and leave nothing behind. Bounded in time; idempotent."""
        async with self._opening, self._lock:
            cohort, self._cohort = self._cohort, None
            runtimes, self._runtimes = self._runtimes, None
            journal, self._journal = self._journal, None
        if cohort is not None:
            async with asyncio.TaskGroup() as closing:
                closing.create_task(cohort.close())
                if self._publisher is not None:
                    closing.create_task(self._publisher.close())
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
        if attempt.watch is not None:
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
                    listeners=self._listeners,
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
                if self._publisher is not None:
                    self._publisher.start(cohort.coordinator_id)
            return self._cohort

    async def start_session(
        self, members: Sequence[Member], clients: Mapping[str, int], fingerprint: str, attempt: Attempt
    ) -> Session:
        """Start a session with a membership and the number of clients of each member."""
        assert self._cohort is not None, "a membership comes from a cohort"
        settings = self.settings
        session = await self._cohort.session(
            members,
            clients,
            settings.timeouts.stage,
            policy=settings.policy,
            deadline=attempt.deadline,
            fingerprint=fingerprint,
            origin=attempt.origin,
        )
        return self._started(session, attempt)

    async def resume_session(self, fingerprint: str, attempt: Attempt) -> Session | None:
        """Resume the session of the same computation in which an earlier process was killed; None if none was."""
        cohort = await self._connected_cohort(attempt)
        assert self._journal is not None
        unfinished = self._journal.take(fingerprint)
        if unfinished is None:
            return None
        settings = self.settings
        session = cohort.resume(unfinished, settings.timeouts.stage, settings.policy, attempt.deadline, attempt.origin)
        return self._started(session, attempt)

    def _started(self, session: Session, attempt: Attempt) -> Session:
        self._last = session
        if attempt.watch is not None:
            attempt.watch.runs(session)
        return session


def _waited(error: BrokerUnreachable, seconds: float) -> BrokerUnreachable:
    """Return the same error, with the seconds for which the broker was waited for."""
    what = f"the broker could not be reached within {seconds_text(seconds)}: {error.what}"
    return BrokerUnreachable(what, retryable=True, hint=error.hint)


async def with_retries(
    run: Callable[[Deadline], Awaitable[T]],
    *,
    retries: int,
    seconds: float | None,
    pause: float = RETRY_PAUSE,
    on_retry: Callable[[int, FedbrokerError], None] = lambda number, error: None,
) -> T:
    """Return the result of the first attempt that succeeds.

    Args:
        run: makes one attempt, given its deadline.
        retries: largest number of further attempts; they are made only after a ``retryable`` error.
        seconds: time limit for all attempts together; None for no limit but the stages' own.
        pause: seconds before the second attempt.
        on_retry: called before each further attempt with its number, from 2, and the error of the previous attempt.

    Raises:
        DeadlineExceeded: the time was up.
        FedbrokerError: the error of the last attempt; ``earlier`` is that of the first, if it says something else.
    """
    first: FedbrokerError | None = None
    deadline = Deadline.never() if seconds is None else Deadline.after(seconds)
    try:
        async with asyncio.timeout(None if seconds is None else seconds + OVERTIME):
            for number in range(retries + 1):
                try:
                    return await run(deadline)
                except FedbrokerError as error:
                    if first is not None and first.what != error.what:
                        error.earlier = first  # what went wrong first may be the cause of all that followed
                    first = first or error
                    wait = pause * 2**number * random.uniform(0.5, 1.0)
                    if not error.retryable or number == retries or wait >= deadline.left():
                        raise
                    on_retry(number + 2, error)
                await asyncio.sleep(wait)
    except TimeoutError:
        if seconds is None:
            raise
        raise DeadlineExceeded(
            f"the invocation took more than {seconds_text(seconds)}",
            hint="raise Timeouts(total=), or ask for less at once",
        ) from None
    raise AssertionError("an attempt returns or raises")
