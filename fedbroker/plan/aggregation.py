"""How an aggregate gets from the silos to the server: one strategy for each aggregate of a plan.

The one strategy so far sends partial sums in the open. With aggregate(values, zero, accumulate, merge, report) over all
clients, silo s sends ``p[s] = aggregate(values of s, zero, accumulate, merge, identity)`` and the server computes
``report(merge(merge(p[0], p[1]), …))``: the zero enters once per silo, as in TFF's own composing executor. ``merge`` is
called as it is, not as an aggregate over clients, so that merging can start before every silo has answered. Imports TFF
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import intrinsic_defs

from fedbroker.plan.model import Merge, Slot
from fedbroker.plan.rewrite import Block

__all__ = ["AGGREGATIONS", "Aggregation", "Partials", "aggregation_of"]

AGGREGATE: Final = intrinsic_defs.FEDERATED_AGGREGATE.uri
AT_SERVER: Final = intrinsic_defs.FEDERATED_VALUE_AT_SERVER.uri


class Aggregation(Protocol):
    """A way to compute one kind of aggregate: what each silo makes of its clients, what the server makes of that."""

    @property
    def name(self) -> str:
        """What the plan's merges are marked with."""
        ...

    def slots(self, name: str, call: bb.Call) -> Merge:
        """The slots through which the aggregate bound to ``name`` travels."""
        ...

    def partial(self, call: bb.Call) -> Block:
        """The silo's half, over its own clients; of the type of the merge's ``partial``."""
        ...

    def merge(self, call: bb.Call) -> Block:
        """Merges two: a function of what is merged so far and the next silo's partial."""
        ...

    def report(self, call: bb.Call, merge: Merge) -> Block:
        """The rest of the server's half, over a reference to the merge's ``merged``; of the call's own type."""
        ...


class Partials:
    """Each silo sends its accumulator as it is; the server folds them. The coordinator sees every silo's."""

    name: Final = "partials"

    def slots(self, name: str, call: bb.Call) -> Merge:
        """See :class:`Aggregation`."""
        accumulator = _parts(call)[2].type_signature.result
        return Merge(
            partial=Slot(f"{name}_partial", tff.FederatedType(accumulator, tff.SERVER)),
            merged=Slot(f"{name}_merged", _parts(call)[4].type_signature.parameter),
            aggregation=self.name,
        )

    def partial(self, call: bb.Call) -> bb.Call:
        """The same zero, accumulate and merge; what is reported is the accumulator itself."""
        value, zero, accumulate, merge, _ = _parts(call)
        accumulator = accumulate.type_signature.result
        identity = bb.Lambda("partial", accumulator, bb.Reference("partial", accumulator))
        return _aggregate(value, zero, accumulate, merge, identity, accumulator)

    def merge(self, call: bb.Call) -> Block:
        """The call's own."""
        return _parts(call)[3]

    def report(self, call: bb.Call, merge: Merge) -> bb.Call:
        """The call's own, at the server."""
        report = _parts(call)[4]
        merged = bb.Reference(merge.merged.name, report.type_signature.parameter)
        reported = bb.Call(report, merged)
        placed = tff.FederatedType(reported.type_signature, tff.SERVER, all_equal=True)
        place = bb.Intrinsic(AT_SERVER, tff.FunctionType(reported.type_signature, placed))
        return bb.Call(place, reported)


AGGREGATIONS: Final[Mapping[str, Aggregation]] = MappingProxyType({AGGREGATE: Partials()})
"""The strategy for each intrinsic that crosses from clients to server."""


def aggregation_of(block: Block) -> Aggregation | None:
    """The strategy for ``block`` if it is a call that crosses from clients to server, else None."""
    if isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic):
        return AGGREGATIONS.get(block.function.uri)
    return None


def _parts(call: bb.Call) -> list[Block]:
    """value, zero, accumulate, merge, report."""
    argument = call.argument
    return [
        argument[index] if isinstance(argument, bb.Struct) else bb.Selection(argument, index=index)
        for index in range(5)
    ]


def _aggregate(
    value: Block, zero: Block, accumulate: Block, merge: Block, report: Block, accumulator: tff.Type
) -> bb.Call:
    argument = bb.Struct([value, zero, accumulate, merge, report])
    # TFF has found these parts to fit together; the types here are the parts' own, since a silo's accumulator and the
    # server's may be more or less precise in their shapes. A zero may be more precise than what it grows into, such as
    # an empty list. The intrinsic takes all-equal values as any others.
    values = tff.FederatedType(value.type_signature.member, tff.CLIENTS)
    functions = [part.type_signature for part in (accumulate, merge, report)]
    signature = tff.FunctionType(
        [values, accumulator, *functions], tff.FederatedType(report.type_signature.result, tff.SERVER)
    )
    return bb.Call(bb.Intrinsic(AGGREGATE, signature), argument)
