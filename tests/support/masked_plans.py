"""Masked sums without a network and without masks: the plan's side of them, in one C++ runtime.

Each silo's partials go through the rings, as masked values do, and their sums to the server's stages.
"""

from __future__ import annotations

import asyncio

import numpy as np
import tensorflow_federated as tff

from fedbroker.context.invocation import split_clients
from fedbroker.context.server_stages import ServerSide
from fedbroker.context.values.arguments import SharedValue, client_count, read_arguments
from fedbroker.context.values.codec import assemble, read
from fedbroker.context.values.masking import read_totals, rings_of
from fedbroker.context.values.ops import StageOps, parts_of
from fedbroker.masking.pairwise import add
from fedbroker.plan import make_plan
from fedbroker.plan.model import ServerStage
from fedbroker.session.merge_scheduler import MergeScheduler
from tests.support.direct_cohort import RUN_SECONDS, replay
from tests.support.local_tff import pack_arguments


def masked_run(loop_thread, runtime):
    """Return ``run(comp, *args, silos=n)``, which invokes with masked sums on executors of one runtime."""

    def run(comp, *args, silos=3):
        return loop_thread.run(MaskedCohort(runtime, silos).run(comp, pack_arguments(comp, args)))

    return run


class MaskedCohort:
    """Runs computations over ``silos`` silos.

    Attributes:
        rings: the rings of each masked sum, stage by stage.
    """

    def __init__(self, runtime, silos: int) -> None:
        self._runtime = runtime
        self._silos = [f"silo-{index:02}" for index in range(silos)]
        self.rings = []

    async def run(self, comp, argument=None):
        plan = make_plan(comp, secure_sum="masked")
        arguments = read_arguments(plan, argument)
        shared = {name: value.value for name, value in arguments.items() if isinstance(value, SharedValue)}
        count = client_count(arguments)
        clients = split_clients(len(self._silos) if count is None else count, self._silos)
        ops = StageOps(clients, arguments, {})
        server = ServerSide(self._runtime.executor, shared)
        silos = {name: (await self._runtime.executor(len(clients[name])), {}) for name in self._silos}
        returned = {}
        try:
            async with asyncio.timeout(RUN_SECONDS):
                for index, stage in enumerate(plan.stages):
                    if isinstance(stage, ServerStage):
                        await server.run(stage)
                    else:
                        following = plan.stages[index + 1] if index + 1 < len(plan.stages) else None
                        await self._at_clients(plan, stage, following, ops, server, silos, returned)
            values = {}
            for slot in plan.result_slots:
                values[slot.name] = returned[slot.name] if slot.name in returned else [server.values[slot.name]]
            return assemble(plan, values)
        finally:
            await server.close()
            for executor, _ in silos.values():
                await executor.close()

    async def _at_clients(self, plan, stage, following, ops, server, silos, returned):
        later = [one for one in plan.client_stages if one.number > stage.number]
        sent = {slot.name: server.values[slot.name] for slot in stage.inputs if slot.name in server.values}
        keep = [slot.name for one in later for slot in one.inputs]
        written = ops.write(stage, sent, keep, last=not later)
        sums = following.sums if following is not None else ()
        count = sum(map(len, ops.client_ranges.values()))
        rings = [rings_of(one, count, sent) for one in sums]
        self.rings.append(rings)
        outputs = {name: await replay(*silo, written[name], ops.blobs) for name, silo in silos.items()}
        merges = MergeScheduler("membership")
        if following is not None and stage.partials:
            server.begin(following, merges)
        total = expected = None
        for name in self._silos:
            masked, clear = outputs[name][: len(stage.masked)], outputs[name][len(stage.masked) :]
            shapes, elements = as_elements(stage.masked, masked, rings)
            if total is None:
                total, expected = elements, shapes
            else:
                assert shapes == expected, f"masked tensors differ: {shapes} and {expected}"
                add(total, elements)
            parts = parts_of(stage, clear)
            merges.arrive(name, parts[: len(stage.partials)], 0)
            merges.advance([name])
            for slot, part in zip(stage.returned, parts[len(stage.partials) :], strict=True):
                returned.setdefault(slot.name, []).append(part)
        server.values |= read_totals(sums, expected, total)


def as_elements(slots, partials, rings):
    """Return the shapes and the ring elements of a silo's partials, as a silo masks them."""
    shapes, elements = [], []
    for slot, partial, ring_of_each in zip(slots, partials, rings, strict=True):
        tensors = tff.structure.flatten(read(partial, slot.type))
        for tensor, ring in zip(tensors, ring_of_each, strict=True):
            array = np.asarray(tensor)
            shapes.append(array.shape)
            elements.append((ring, ring.elements(array)))
    return tuple(shapes), [(ring, ring.unpack(ring.pack(part))) for ring, part in elements]
