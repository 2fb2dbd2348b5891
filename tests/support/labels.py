"""A silo's labels of the outputs of a plan's client stages, derived without running them."""

from __future__ import annotations

import tensorflow_federated as tff
from fedbroker_worker.policy.aggregates import Aggregates
from fedbroker_worker.policy.intrinsics import GIVEN, Clients, Server

from fedbroker.graphs.expressions import Value
from fedbroker.plan import make_plan
from fedbroker.plan.model import ClientStage
from fedbroker.wire import messages
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Op


def labels_of_plan(comp, secure_sum="refuse") -> list[Value]:
    """Return the label of each output of each client stage of a computation; every client has data of the silo."""
    aggregates, held, found = Aggregates(), {}, []
    for stage in make_plan(comp, secure_sum=secure_sum).stages:
        if not isinstance(stage, ClientStage):
            continue
        labels = {at: held.get(slot.name, _label_of(slot.type)) for at, slot in enumerate(stage.inputs)}
        function, argument, result = (len(labels) + at for at in range(3))
        digest = digest_of(stage.computation)
        program: list[Op] = [messages.Value(function, digest)]
        if labels:
            program.append(messages.Struct(argument, tuple(("", at) for at in labels)))
        program.append(messages.Call(result, function, argument if labels else None))
        outputs = range(result + 1, result + 1 + len(stage.outputs))
        program += [messages.Select(ref, result, at) for at, ref in enumerate(outputs)]
        aggregates.follow(program, {digest: stage.computation}, labels)
        held |= {slot.name: labels[ref] for slot, ref in zip(stage.outputs, outputs, strict=True)}
        leaving = {slot.name for slot in (*stage.masked, *stage.partials, *stage.returned)}
        found += [labels[ref] for slot, ref in zip(stage.outputs, outputs, strict=True) if slot.name in leaving]
    return found


def _label_of(type_: tff.Type) -> Value:
    if isinstance(type_, tff.FederatedType):
        return Clients(data=True, dealt=False) if type_.placement is tff.CLIENTS else Server(GIVEN)
    return GIVEN
