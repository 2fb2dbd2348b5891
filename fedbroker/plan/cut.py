"""Cut a flat computation: the placement and stage of each local, and the values that cross between stages.

A parameter has stage 0, any other value the highest stage of the values that it refers to, and an aggregate one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import tensorflow_federated as tff
from tensorflow.python.framework import op_def_registry
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.errors import PlanError
from fedbroker.plan.aggregation import Aggregation, aggregation_of
from fedbroker.plan.blocks import Block, free, names_in_order, proto_of, tf, untyped, walk
from fedbroker.plan.compiler import DEFECT, Flat
from fedbroker.plan.masked import Masked, masked_of

__all__ = ["Local", "Place", "analyse", "check_captures", "place_of"]

_CARRIERS = frozenset(
    {
        # TensorFlow marks them stateful for the functions they may call; _ops looks through the function library.
        "StatefulPartitionedCall",
        "PartitionedCall",
        "If",
        "While",
        "Case",
        "Placeholder",
        # Variables exist for one run of the graph only.
        "VarHandleOp",
        "VariableV2",
        "ReadVariableOp",
        "AssignVariableOp",
        "AssignAddVariableOp",
        "AssignSubVariableOp",
        "VarIsInitializedOp",
        "DestroyResourceOp",
        "Assert",
        "NoOp",
    }
)


class Place(Enum):
    """The placement of a value."""

    SERVER = "server"
    CLIENTS = "clients"
    NOWHERE = "unplaced"


@dataclass(frozen=True, slots=True)
class Local:
    """A value of the flat computation: a local, or a leaf of the parameter (which has no ``block``).

    Attributes:
        stage: the number of the stage that it belongs to.
        uses: the names that it refers to.
        aggregation: for a call that crosses from clients to server, the strategy that computes it.
        once: unplaced and to be evaluated exactly once, at the coordinator: it is part of the result, or a second
            evaluation might differ.
    """

    name: str
    type: tff.Type
    block: Block | None
    place: Place
    stage: int
    uses: tuple[str, ...]
    aggregation: Aggregation | Masked | None = None
    once: bool = False

    @property
    def expression(self) -> Block:
        """Return the block of a value that is no leaf of the parameter."""
        assert self.block is not None
        return self.block


def place_of(type_: tff.Type) -> Place:
    """Return the placement of a value of that type.

    Raises:
        PlanError: its placement is neither CLIENTS nor SERVER.
    """
    if isinstance(type_, tff.FederatedType):
        if type_.placement is tff.SERVER:
            return Place.SERVER
        if type_.placement is tff.CLIENTS:
            return Place.CLIENTS
        raise PlanError(f"a value of type {type_} has a placement other than CLIENTS and SERVER")
    return Place.NOWHERE


def analyse(flat: Flat) -> dict[str, Local]:
    """Return every parameter leaf and every local that the result needs, by name, in order of evaluation.

    Raises:
        PlanError: a local is no call, or refers to an unknown name.
    """
    values: dict[str, Local] = {
        slot.name: Local(slot.name, slot.type, None, place_of(slot.type), 0, ()) for slot in flat.parameters
    }
    result = names_in_order(flat.result)
    for name, block in flat.locals:
        values[name] = _local(name, block, values, once=name in result or name in flat.once)
    needed = _reachable(result, values)
    return {name: local for name, local in values.items() if name in needed}


def _local(name: str, block: Block, values: Mapping[str, Local], *, once: bool) -> Local:
    uses = tuple(names_in_order(block))
    unbound = [use for use in uses if use not in values]
    if unbound:
        raise PlanError(f"TFF's compiler left {', '.join(unbound)} unbound in {name}", hint=DEFECT)
    place = place_of(block.type_signature)
    used = [values[use] for use in uses]
    stateful = _check_parts(block)
    if place is Place.NOWHERE and any(local.place is not Place.NOWHERE for local in used):
        raise PlanError(
            f"{block.compact_representation()[:120]} makes an unplaced value from a federated one",
            hint="use tff.federated_map or an aggregation",
        )
    aggregation = aggregation_of(block) or masked_of(block)
    return Local(
        name,
        block.type_signature,
        block,
        place,
        max((local.stage for local in used), default=0) + (aggregation is not None),
        uses,
        aggregation=aggregation,
        once=place is Place.NOWHERE and (once or stateful),
    )


def check_captures(block: Block) -> None:
    """Refuse functions with free references: TFF's runtime evaluates a function separately from its surroundings.

    Raises:
        PlanError: a function in ``block`` refers to something outside of it.
    """
    for part in walk(block):
        _check_function(part)


def _check_parts(block: Block) -> bool:
    """Check the functions in a block, as :func:`check_captures`, and return whether it is stateful, in one walk."""
    stateful = False
    for part in walk(block):
        _check_function(part)
        stateful = stateful or (isinstance(part, bb.CompiledComputation) and _is_stateful(part))
    return stateful


def _check_function(part: Block) -> None:
    captured = next(free(part), None) if isinstance(part, bb.Lambda) else None
    if captured is not None:
        raise PlanError(
            f"a function captures a value of type {captured.type_signature} from outside of it",
            hint="make that value part of its argument, with tff.federated_broadcast and tff.federated_zip",
        )


def _reachable(roots: Iterable[str], values: Mapping[str, Local]) -> set[str]:
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(values[name].uses)
    return seen


def _is_stateful(compiled: bb.CompiledComputation) -> bool:
    """Return whether a TensorFlow graph contains an op whose result may differ from run to run."""
    return any(_op_is_stateful(op) for op in _ops(compiled))


def _ops(compiled: bb.CompiledComputation) -> Iterator[str]:
    graph = tf.compat.v1.GraphDef()
    if not proto_of(compiled).tensorflow.graph_def.Unpack(graph):
        return
    yield from (node.op for node in graph.node)
    for function in graph.library.function:
        yield from (node.op for node in function.node_def)


def _op_is_stateful(op: str) -> bool:
    definition = untyped(op_def_registry).get(op)
    return definition is not None and bool(definition.is_stateful) and op not in _CARRIERS
