"""Strategies that compute an aggregate of the silos' clients at the server, one for each aggregate of a plan.

The strategy for ordinary aggregates sends partial aggregates in plaintext; secure sums have one of their own
(:mod:`fedbroker.plan.masked`). With aggregate(values, zero, accumulate, merge, report)
over all clients, silo s sends ``p[s] = aggregate(values of s, zero, accumulate, merge, identity)`` and the server
computes ``report(merge(merge(p[0], p[1]), …))``: the zero enters once per silo, as in TFF's own composing executor.
``merge`` is called as it is, not as an aggregate over clients, so that merging can start before every silo has replied.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import intrinsic_defs

from fedbroker.plan.blocks import Block, element, parameter_of, result_of
from fedbroker.plan.model import Merge, Slot

__all__ = ["AGGREGATIONS", "Aggregation", "Partials", "aggregate", "aggregation_of", "at_server"]

AGGREGATE: Final = intrinsic_defs.FEDERATED_AGGREGATE.uri
AT_SERVER: Final = intrinsic_defs.FEDERATED_VALUE_AT_SERVER.uri


class Aggregation(Protocol):
    """A strategy for one kind of aggregate: the computation of each silo over its clients, and the server's merging."""

    @property
    def name(self) -> str:
        """Return the name that the plan's merges are marked with."""
        ...

    def slots(self, name: str, call: Block) -> Merge:
        """Return the slots through which the aggregate bound to ``name`` passes."""
        ...

    def partial(self, call: Block) -> Block:
        """Return the silo's half, over its own clients; it has the type of the merge's ``partial``."""
        ...

    def merge(self, call: Block) -> Block:
        """Return the function that merges two: the value merged so far and the next silo's partial."""
        ...

    def report(self, call: Block, merge: Merge) -> Block:
        """Return the rest of the server's half, over a reference to the merge's ``merged``; of the call's own type."""
        ...


class Partials:
    """Each silo sends its accumulator in plaintext; the server folds them, so the coordinator sees each of them."""

    @property
    def name(self) -> str:
        """Return the name; see :class:`Aggregation`."""
        return "partials"

    def slots(self, name: str, call: Block) -> Merge:
        """Return the slots; see :class:`Aggregation`."""
        accumulator = result_of(_parts(call)[2])
        return Merge(
            partial=Slot(f"{name}_partial", tff.FederatedType(accumulator, tff.SERVER)),
            merged=Slot(f"{name}_merged", parameter_of(_parts(call)[4])),
            aggregation=self.name,
        )

    def partial(self, call: Block) -> bb.Call:
        """Return the same zero, accumulate and merge, with the accumulator itself as the report."""
        value, zero, accumulate, merge, _ = _parts(call)
        accumulator = result_of(accumulate)
        identity = bb.Lambda("partial", accumulator, bb.Reference("partial", accumulator))
        return aggregate(value, zero, accumulate, merge, identity, accumulator)

    def merge(self, call: Block) -> Block:
        """Return the call's own merge."""
        return _parts(call)[3]

    def report(self, call: Block, merge: Merge) -> bb.Call:
        """Return the call's own report, at the server."""
        report = _parts(call)[4]
        return at_server(bb.Call(report, bb.Reference(merge.merged.name, merge.merged.type)))


AGGREGATIONS: Final[Mapping[str, Aggregation]] = MappingProxyType({AGGREGATE: Partials()})
"""The strategy for each intrinsic that crosses from clients to server."""


def aggregation_of(block: Block) -> Aggregation | None:
    """Return the strategy for ``block`` if it is a call that crosses from clients to server, else None."""
    if isinstance(block, bb.Call) and isinstance(block.function, bb.Intrinsic):
        return AGGREGATIONS.get(block.function.uri)
    return None


def _parts(call: Block) -> list[Block]:
    """Return value, zero, accumulate, merge and report."""
    assert isinstance(call, bb.Call)
    return [element(call.argument, index) for index in range(5)]


def at_server(value: Block) -> bb.Call:
    """Return an unplaced value, placed at the server."""
    placed = tff.FederatedType(value.type_signature, tff.SERVER, all_equal=True)
    return bb.Call(bb.Intrinsic(AT_SERVER, tff.FunctionType(value.type_signature, placed)), value)


def aggregate(
    value: Block, zero: Block, accumulate: Block, merge: Block, report: Block, accumulator: tff.Type
) -> bb.Call:
    """Return a call of TFF's aggregate: the values, the four parts of the aggregate, and the accumulator's type."""
    assert isinstance(value.type_signature, tff.FederatedType)
    argument = bb.Struct([value, zero, accumulate, merge, report])
    # TFF has checked that these parts fit together. The types here are the parts' own, since the shapes in a silo's
    # accumulator and in the server's may differ in precision. A zero may be more precise than the accumulator that it
    # grows into, such as an empty list. The intrinsic accepts all-equal values like any others.
    values = tff.FederatedType(value.type_signature.member, tff.CLIENTS)
    functions = [part.type_signature for part in (accumulate, merge, report)]
    signature = tff.FunctionType([values, accumulator, *functions], tff.FederatedType(result_of(report), tff.SERVER))
    return bb.Call(bb.Intrinsic(AGGREGATE, signature), argument)
