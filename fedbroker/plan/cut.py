"""Cut a flat computation: the placement and level of each local, and the values that cross between stages.

A parameter has level 0, any other value the highest level of the values that it refers to, and an aggregate one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow.python.framework import op_def_registry
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.errors import PlanError
from fedbroker.plan.aggregation import Aggregation, aggregation_of
from fedbroker.plan.blocks import Block, free, names_in_order, walk
from fedbroker.plan.compiler import Flat

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
        aggregation: for a call that crosses from clients to server, the strategy that computes it.
        once: unplaced and to be evaluated exactly once, at the coordinator: it is part of the result, or a second
            evaluation might differ.
    """

    name: str
    type: tff.Type
    block: Block | None
    place: Place
    level: int
    uses: tuple[str, ...]
    aggregation: Aggregation | None = None
    once: bool = False


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
    known: dict[str, Local] = {
        slot.name: Local(slot.name, slot.type, None, place_of(slot.type), 0, ()) for slot in flat.parameters
    }
    result = names_in_order(flat.result)
    for name, block in flat.locals:
        known[name] = _local(name, block, known, returned=name in result)
    needed = _reachable(result, known)
    return {name: local for name, local in known.items() if name in needed}


def _local(name: str, block: Block, known: Mapping[str, Local], *, returned: bool) -> Local:
    uses = tuple(names_in_order(block))
    strangers = [use for use in uses if use not in known]
    if strangers:
        raise PlanError(f"TFF's compiler left {', '.join(strangers)} unbound in {name}")
    check_captures(block)
    place = place_of(block.type_signature)
    used = [known[use] for use in uses]
    if place is Place.NOWHERE and any(one.place is not Place.NOWHERE for one in used):
        raise PlanError(
            f"{block.compact_representation()[:120]} makes an unplaced value from a federated one",
            hint="use tff.federated_map or an aggregation",
        )
    aggregation = aggregation_of(block)
    return Local(
        name,
        block.type_signature,
        block,
        place,
        max((one.level for one in used), default=0) + (aggregation is not None),
        uses,
        aggregation=aggregation,
        once=place is Place.NOWHERE and (returned or is_stateful(block)),
    )


def check_captures(block: Block) -> None:
    """Refuse functions with free references: TFF's runtime evaluates a function separately from its surroundings.

    Raises:
        PlanError: a function in ``block`` refers to something outside of it.
    """
    for part in walk(block):
        if isinstance(part, bb.Lambda) and any(free(part)):
            raise PlanError(
                f"a function captures a value of type {next(free(part)).type_signature} from outside of it",
                hint="make that value part of its argument, with tff.federated_broadcast and tff.federated_zip",
            )


def _reachable(roots: Iterable[str], known: Mapping[str, Local]) -> set[str]:
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(known[name].uses)
    return seen


def is_stateful(block: Block) -> bool:
    """Return whether any TensorFlow graph in ``block`` contains an op whose result may differ from run to run."""
    return any(
        _op_is_stateful(op) for part in walk(block) if isinstance(part, bb.CompiledComputation) for op in _ops(part)
    )


def _ops(compiled: bb.CompiledComputation) -> Iterator[str]:
    graph = tf.compat.v1.GraphDef()
    if not compiled.proto.tensorflow.graph_def.Unpack(graph):
        return
    yield from (node.op for node in graph.node)
    for function in graph.library.function:
        yield from (node.op for node in function.node_def)


def _op_is_stateful(op: str) -> bool:
    definition = op_def_registry.get(op)
    return definition is not None and definition.is_stateful and op not in _CARRIERS
