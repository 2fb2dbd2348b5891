"""An aggregate in two halves: each silo's partial over its own clients, and the server's merge of the partials.

With aggregate(values, zero, accumulate, merge, report) over all clients, silo s sends
``p[s] = aggregate(values of s, zero, accumulate, merge, identity)`` and the server computes
``aggregate(p[1:], p[0], merge, merge, report)``: the zero enters once per silo, as in TFF's own composing executor, and
the fold is in membership order. Imports TFF only.
"""

from __future__ import annotations

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import intrinsic_defs

from fedbroker.plan.model import Merge, Slot
from fedbroker.plan.rewrite import Block

__all__ = ["AGGREGATE", "is_aggregate", "merge_of", "partial_of", "slots_of"]

AGGREGATE = intrinsic_defs.FEDERATED_AGGREGATE.uri


def is_aggregate(block: Block) -> bool:
    """Whether ``block`` is a call that crosses from clients to server."""
    return isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic) and block.function.uri == AGGREGATE


def slots_of(name: str, call: bb.Call) -> Merge:
    """The slots through which the aggregate bound to ``name`` travels."""
    accumulator = _parts(call)[2].type_signature.result
    return Merge(
        partial=Slot(f"{name}_partial", tff.FederatedType(accumulator, tff.SERVER)),
        first=Slot(f"{name}_first", accumulator),
        rest=Slot(f"{name}_rest", tff.FederatedType(accumulator, tff.CLIENTS)),
    )


def partial_of(call: bb.Call) -> bb.Call:
    """The silo's half: the same zero, accumulate and merge; what is reported is the accumulator itself."""
    value, zero, accumulate, merge, _ = _parts(call)
    accumulator = accumulate.type_signature.result
    identity = bb.Lambda("partial", accumulator, bb.Reference("partial", accumulator))
    return _aggregate(value, zero, accumulate, merge, identity)


def merge_of(call: bb.Call, merge: Merge) -> bb.Call:
    """The server's half, over references to the merge's two inputs."""
    _, _, _, combine, report = _parts(call)
    rest = bb.Reference(merge.rest.name, merge.rest.type)
    first = bb.Reference(merge.first.name, merge.first.type)
    return _aggregate(rest, first, combine, combine, report)


def _parts(call: bb.Call) -> list[Block]:
    """value, zero, accumulate, merge, report."""
    argument = call.argument
    return [
        argument[index] if isinstance(argument, bb.Struct) else bb.Selection(argument, index=index)
        for index in range(5)
    ]


def _aggregate(value: Block, zero: Block, accumulate: Block, merge: Block, report: Block) -> bb.Call:
    argument = bb.Struct([value, zero, accumulate, merge, report])
    # TFF has found these parts to fit together; the types here are the parts' own, since a silo's accumulator and the
    # server's may be more or less precise in their shapes. The intrinsic takes all-equal values as any others.
    values = tff.FederatedType(value.type_signature.member, tff.CLIENTS)
    rest = [part.type_signature for part in (zero, accumulate, merge, report)]
    signature = tff.FunctionType([values, *rest], tff.FederatedType(report.type_signature.result, tff.SERVER))
    return bb.Call(bb.Intrinsic(AGGREGATE, signature), argument)
