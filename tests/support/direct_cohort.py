"""Silos without a broker: executors of one C++ runtime, used through the session's own interface.

A boundary of our own, so that thousands of plans can run; a test that concerns the broker uses a real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fedbroker.context.invocation import Attempt, invoke
from fedbroker.context.orders import InvocationOrders, RoundCounter
from fedbroker.context.settings import Settings, Timeouts
from fedbroker.deadline import Deadline
from fedbroker.plan import make_plan
from fedbroker.session.roster import Member
from fedbroker.session.stage_state import Policy
from fedbroker.wire.messages import Call, Compute, Drop, Select, Struct, Value
from tests.support.local_tff import pack_arguments

RUN_SECONDS = 120.0
"""The longest wait for a result, on a loaded machine."""


def direct_run(loop_thread, runtime):
    """Return ``run(comp, *args, silos=n)``, which invokes on executors of one runtime, without a broker."""

    def run(comp, *args, silos=3, secure_sum="refuse"):
        argument = pack_arguments(comp, args)
        return loop_thread.run(DirectCohort(runtime, silos).run(comp, argument, secure_sum=secure_sum))

    return run


class DirectSession:
    """A session whose silos are executors of a local runtime."""

    def __init__(self, runtime, members: Sequence[Member], clients: Mapping[str, int]) -> None:
        self.runtime = runtime
        self.members = members
        self.clients = clients
        self.executors = {}
        self.values = {member.name: {} for member in members}
        self.stages = 0
        self.session_id = "direct"
        self.membership = members
        self.policy = Policy()
        self.journal = None

    async def run_stage(self, work):
        self.stages += 1
        for member in self.members:
            if member.name not in self.executors:
                self.executors[member.name] = await self.runtime.executor(self.clients[member.name])
            values = self.values[member.name]
            outputs = await replay(self.executors[member.name], values, work.ops[member.name], work.blobs)
            work.merges.arrive(member.name, work.accept(member.name, outputs), sum(map(len, outputs)))
            work.merges.advance([member.name])
        return tuple(member.name for member in self.members)

    async def close(self, error=None) -> None:
        for executor in self.executors.values():
            await executor.close()
        self.executors = {}


async def replay(executor, refs, ops, blobs):
    """Run a silo's operations, keep its values in ``refs``, and return its outputs."""
    outputs = []
    for op in ops:
        match op:
            case Value(ref, blob):
                refs[ref] = await executor.value(blobs[blob])
            case Struct(ref, elements):
                refs[ref] = await executor.struct([(name, refs[one]) for name, one in elements])
            case Select(ref, source, index):
                refs[ref] = await executor.select(refs[source], index)
            case Call(ref, function, argument):
                refs[ref] = await executor.call(refs[function], None if argument is None else refs[argument])
            case Compute(ref):
                outputs.append(await executor.compute(refs[ref]))
            case Drop(gone):
                for ref in gone:
                    del refs[ref]
    return outputs


class DirectCohort:
    """Runs computations over ``silos`` silos without a broker."""

    def __init__(self, runtime, silos: int) -> None:
        self.runtime = runtime
        self.members = [Member(f"silo-{index:02}", "1") for index in range(silos)]
        self.settings = Settings(url="amqp://localhost", cohort="direct", min_silos=1, timeouts=Timeouts(stage=60.0))
        self.sessions = []

    async def run(self, comp, argument=None, *, secure_sum="refuse"):
        forever = Deadline.never()
        plan = make_plan(comp, secure_sum=secure_sum)
        async with asyncio.timeout(RUN_SECONDS):
            orders = InvocationOrders(RoundCounter(), plan, argument)
            return await invoke(plan, argument, self, Attempt(forever, forever, None, orders))

    async def executor(self, clients):
        return await self.runtime.executor(clients)

    async def gather(self, requirements, attempt):
        return requirements.choose(self.members)

    async def start_session(self, members, clients, fingerprint, attempt):
        self.sessions.append(DirectSession(self.runtime, members, clients))
        return self.sessions[-1]
