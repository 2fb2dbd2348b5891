"""Masked sums without a broker: silos in one C++ runtime that mask what they computed, with the silo's own code.

The coordinator's side is an invocation as it is: its plan, its masking request, and its sum.
"""

from __future__ import annotations

from fedbroker_worker.masking.tensors import elements_of, tensors_of

from fedbroker.masking.results import write_masked
from fedbroker.session.roster import Member
from fedbroker.trust import Identity
from fedbroker.trust.keyring import Keys
from tests.support.direct_cohort import DirectCohort, DirectSession, replay
from tests.support.local_tff import pack_arguments
from tests.support.masking import COHORT, Silos, occasion


def masked_run(loop_thread, runtime):
    """Return ``run(comp, *args, silos=n)``, which invokes with masked sums over at least three silos."""

    def run(comp, *args, silos=3):
        cohort = MaskedCohort(runtime, max(silos, 3))
        return loop_thread.run(cohort.run(comp, pack_arguments(comp, args), secure_sum="masked"))

    return run


class MaskedSession(DirectSession):
    """A session whose silos mask; all of them count as silos with clients."""

    def __init__(self, runtime, members, clients, silos):
        super().__init__(runtime, members, clients)
        self.silos = silos

    async def run_stage(self, work):
        if work.masking is None:
            return await super().run_stage(work)
        self.stages += 1
        replies = {}
        for member in self.members:
            if member.name not in self.executors:
                self.executors[member.name] = await self.runtime.executor(self.clients[member.name])
            outputs = await replay(
                self.executors[member.name], self.values[member.name], work.ops[member.name], work.blobs
            )
            clear, blob = self._masked(member.name, outputs, work)
            work.check(clear, self.clients[member.name])
            replies[member.name] = clear, blob
        for name, (clear, blob) in replies.items():
            assert len(clear) == work.outputs
            work.merges.arrive(name, work.accept(name, clear), sum(map(len, clear)))
            work.merges.advance([name])
            total = work.masking.total
            total.expect(name, total.check(blob))
            total.add(name, blob)
        return tuple(replies)

    def _masked(self, name, outputs, work):
        """Return the outputs that are not masked, and the masked ones as a silo sends them."""
        described = list(zip(outputs, work.masking.outputs, strict=True))
        pairs = [
            (ring, tensor)
            for output, rings in described
            if rings is not None
            for ring, tensor in zip(rings, tensors_of(output), strict=True)
        ]
        values = [(ring, elements_of(ring, tensor)) for ring, tensor in pairs]
        silos = self.silos
        where = occasion(silos.members, stage=work.stage, work=work.masking.work)
        silos.mask(name, values, silos.members, where)
        blob = write_masked([tensor.shape for _, tensor in pairs], values)
        return [output for output, rings in described if rings is None], blob


class MaskedCohort(DirectCohort):
    """Runs computations over ``silos`` silos that mask."""

    def __init__(self, runtime, silos: int) -> None:
        super().__init__(runtime, silos)
        self.silos = Silos(silos)
        members = [one.member for one in self.silos.masking.values()]
        self.members = [
            Member(one.silo, one.incarnation, mask_key=one.mask_key.hex(), mask_signature=one.signature.hex())
            for one in members
        ]
        object.__setattr__(self.settings, "cohort", COHORT)
        object.__setattr__(self.settings, "trusted", Keys(Identity.generate(), self.silos.roster))

    async def start_session(self, members, clients, fingerprint, attempt):
        self.sessions.append(MaskedSession(self.runtime, members, clients, self.silos))
        return self.sessions[-1]
