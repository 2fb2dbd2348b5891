"""The process that runs the TFF program: its plans, its C++ runtime, its cohort, each made when first needed.

Imports the session, the plan, the runtime and this package's parts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import tensorflow_federated as tff

from fedbroker.context.failures import leaving
from fedbroker.context.invocation import Environment, invoke
from fedbroker.context.membership import Wanted
from fedbroker.deadline import Deadline
from fedbroker.errors import ConfigError, FedbrokerError, UsageError
from fedbroker.plan import Plan, make_plan
from fedbroker.plan.functions import holds_function, specialize
from fedbroker.plan.secure import SecureSum
from fedbroker.runtime import Executor, Runtime
from fedbroker.session.cohort import Cohort, Pool
from fedbroker.session.roster import Member
from fedbroker.session.session import Session
from fedbroker.transport.url import parse
from fedbroker.wire.names import check_name

__all__ = ["Coordinator", "Settings"]

PLANS_KEPT = 128


@dataclass(frozen=True, slots=True)
class Settings:
    """How a coordinator works; see :func:`fedbroker.create_sync_execution_context`.

    Raises:
        ConfigError: a value is out of range, or the URL or the cohort's name is malformed.
    """

    url: str
    cohort: str
    min_silos: int = 1
    max_silos: int | None = None
    join_timeout: float = 60.0
    stage_timeout: float = 300.0
    default_num_clients: int | None = None
    secure_sum: SecureSum = "refuse"
    isolation: Literal["namespace", "none"] = "namespace"

    def __post_init__(self) -> None:
        parse(self.url)
        check_name("cohort", self.cohort)
        if self.min_silos < 1:
            raise ConfigError(f"min_silos is {self.min_silos}", hint="it must be at least 1")
        if self.max_silos is not None and self.max_silos < self.min_silos:
            raise ConfigError(
                f"max_silos is {self.max_silos}, less than min_silos ({self.min_silos})",
                hint="raise it, or leave it out",
            )
        if self.default_num_clients is not None and self.default_num_clients < 0:
            raise ConfigError(
                f"default_num_clients is {self.default_num_clients}",
                hint="it must not be negative; leave it out for one client at each silo",
            )
        if self.secure_sum not in get_args(SecureSum):
            raise ConfigError(
                f"secure_sum is {self.secure_sum!r}", hint='use "refuse", or "plaintext" to compute in the open'
            )
        for name, seconds in (("join_timeout", self.join_timeout), ("stage_timeout", self.stage_timeout)):
            if not seconds > 0:
                raise ConfigError(f"{name} is {seconds} s", hint="it must be positive")

    def __repr__(self) -> str:
        """Without the URL, which may hold a password."""
        return f"Settings(cohort={self.cohort!r}, min_silos={self.min_silos}, max_silos={self.max_silos})"


class Coordinator:
    """Runs computations on one cohort. All coroutines run on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._plans: OrderedDict[int, tuple[tff.Computation, asyncio.Task[Plan]]] = OrderedDict()
        self._special: OrderedDict[tff.Computation, tff.Computation] = OrderedDict()
        self._lock = asyncio.Lock()
        self._cohort: Cohort | None = None
        self._runtime: Runtime | None = None

    async def invoke(self, comp: tff.Computation, argument: object) -> object:
        """Run ``comp``; see :func:`fedbroker.context.invocation.invoke`."""
        settings = self.settings
        environment = Environment(
            self._executor, self._gather, self._session, settings.stage_timeout, settings.default_num_clients
        )
        try:
            called, rest = await self._with_functions(comp, argument)
            return await invoke(await self.plan(called), rest, environment)
        except FedbrokerError as error:
            raise leaving(error, comp) from error.__cause__

    async def _with_functions(self, comp: tff.Computation, argument: object) -> tuple[tff.Computation, object]:
        """What is planned, and called with what: ``comp`` itself, unless functions are among its arguments."""
        if not (isinstance(comp, tff.framework.ConcreteComputation) and holds_function(comp.type_signature.parameter)):
            return comp, argument
        special, rest = await asyncio.to_thread(specialize, comp, argument)
        special = self._special.setdefault(special, special)  # equal ones share a plan
        self._special.move_to_end(special)
        while len(self._special) > PLANS_KEPT:
            self._special.popitem(last=False)
        return special, rest

    async def plan(self, comp: tff.Computation) -> Plan:
        """The plan of ``comp``, made once; told by its identity, since comparing two costs a serialization of both.

        Whoever asks while it is being made waits for the same one; it is made to its end even if nobody waits any more.
        """
        if id(comp) not in self._plans:
            making = asyncio.create_task(asyncio.to_thread(make_plan, comp, secure_sum=self.settings.secure_sum))
            making.add_done_callback(lambda plan: self._forget_failed(id(comp), plan))
            self._plans[id(comp)] = comp, making
            while len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(id(comp))
        _, plan = self._plans[id(comp)]
        return await asyncio.shield(plan)

    def _forget_failed(self, key: int, plan: asyncio.Task[Plan]) -> None:
        failed = plan.cancelled() or plan.exception() is not None
        if failed and key in self._plans and self._plans[key][1] is plan:
            del self._plans[key]

    async def close(self) -> None:
        """Leave nothing behind, at the broker or on this machine. Bounded in time; idempotent."""
        async with self._lock:
            cohort, self._cohort = self._cohort, None
            runtime, self._runtime = self._runtime, None
        if cohort is not None:
            await cohort.close()
        if runtime is not None:
            await runtime.close()

    async def _executor(self, clients: int) -> Executor:
        async with self._lock:
            if self._runtime is None:
                runtime = Runtime(isolation=self.settings.isolation)
                await runtime.start()
                self._runtime = runtime
        return await self._runtime.executor(clients)

    async def _gather(self, wanted: Wanted) -> Sequence[Member]:
        settings = self.settings
        if settings.max_silos is not None and wanted.count > settings.max_silos:
            raise UsageError(
                f"{wanted.count} silos were selected where max_silos is {settings.max_silos}",
                hint="select fewer, or raise max_silos",
            )
        async with self._lock:
            if self._cohort is None:
                cohort = Cohort(settings.url, settings.cohort)
                try:
                    await cohort.open(Deadline.after(settings.join_timeout))
                except BaseException:
                    await asyncio.shield(cohort.close())
                    raise
                self._cohort = cohort
        pool = Pool(wanted.eligible, wanted.count, ", ".join(sorted(wanted.sources)))
        there = await self._cohort.gather(settings.min_silos, settings.join_timeout, pool)
        return wanted.choose(there)[: settings.max_silos]

    def _session(self, members: Sequence[Member], clients: Mapping[str, int]) -> Session:
        assert self._cohort is not None, "a membership comes from a cohort"
        return self._cohort.session(members, clients, self.settings.stage_timeout)
