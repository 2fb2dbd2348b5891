"""The arguments of a call, leaf by leaf: the coordinator's values, clients' values, and data handles."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import tensorflow as tf
import tensorflow_federated as tff
import tree
from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
from tensorflow_federated.python.core.impl.computation import function_utils

from fedbroker.context.values.codec import serialize
from fedbroker.context.values.data import SiloData
from fedbroker.errors import UsageError
from fedbroker.plan.model import Plan, Slot
from fedbroker.wire.blobs import Buffer

__all__ = ["Argument", "ClientValues", "SharedValue", "client_count", "expand", "read_arguments"]


@dataclass(frozen=True, slots=True)
class SharedValue:
    """A value that is the same for all: server-placed, all-equal or unplaced, as a serialized executor value."""

    value: Buffer


@dataclass(frozen=True, slots=True)
class ClientValues:
    """One Python value for each client, in order; not serialized yet."""

    values: Sequence[object]


Argument: TypeAlias = SharedValue | ClientValues | SiloData


def read_arguments(plan: Plan, argument: object) -> dict[str, Argument]:
    """Split a call's argument by the slots of the plan's parameter.

    Args:
        plan: plan of the computation that was called.
        argument: as TFF passes it to an execution context: None, a value, or a ``Struct`` of the call's arguments.

    Returns:
        The argument for each slot of the parameter, by name.

    Raises:
        UsageError: a list is given where none is allowed, or is missing where one is needed; a value is not of its
            type.
    """
    normalized = _normalize(argument)
    arguments: dict[str, Argument] = {}
    for slot in plan.parameters:
        value = normalized
        for index in slot.path or ():
            value = tff.structure.from_container(value)[index]
        arguments[slot.name] = _read(slot, value)
    return arguments


def client_count(arguments: Mapping[str, Argument]) -> int | None:
    """Return the number of clients in the lists; None if no argument is a list.

    Raises:
        UsageError: the lists are of different lengths.
    """
    counts = {len(argument.values) for argument in arguments.values() if isinstance(argument, ClientValues)}
    if len(counts) > 1:
        lengths = ", ".join(map(str, sorted(counts)))
        raise UsageError(
            f"Conflicting cardinalities: the arguments hold lists of {lengths} client values",
            hint="give every clients-placed argument one value for each client",
        )
    return next(iter(counts), None)


def _read(slot: Slot, value: object) -> Argument:
    type_ = slot.type
    if not isinstance(type_, tff.FederatedType) or type_.placement is not tff.CLIENTS:
        if isinstance(value, SiloData):
            raise UsageError(
                f"fedbroker.data({value.name!r}) was given for a parameter of type {type_}",
                hint="silos' data can only stand for a parameter that is placed at tff.CLIENTS",
            )
        return SharedValue(serialize(value, type_))
    if isinstance(value, SiloData):
        if type_.all_equal:
            raise UsageError(
                f"fedbroker.data({value.name!r}) was given for {type_}, which is the same at all clients",
                hint="declare the parameter as tff.FederatedType(…, tff.CLIENTS) without all_equal",
            )
        return value
    if type_.all_equal:
        return SharedValue(serialize(value, type_))
    if not isinstance(value, (list, tuple)):
        raise UsageError(
            f"a parameter of type {type_} was given a {type(value).__name__}",
            hint='give a list with one value for each client, or fedbroker.data("…")',
        )
    return ClientValues(list(cast("Sequence[object]", value)))


def _normalize(argument: object) -> object:
    """Convert TensorFlow values in the argument to NumPy's, as TFF's own contexts do before they ingest it."""
    if argument is None:
        return None
    if not isinstance(argument, tff.structure.Struct):
        return tensorflow_computation.transform_args(tree.traverse(expand, argument))
    args, kwargs = function_utils.unpack_args_from_struct(argument)
    return function_utils.pack_args_into_struct(
        tensorflow_computation.transform_args(tree.traverse(expand, args)),
        tensorflow_computation.transform_args(tree.traverse(expand, kwargs)),
    )


def expand(value: object) -> object | None:
    """Return a TFF struct as a Python container, and a ragged or sparse tensor as its parts, by their names in TFF.

    Returns:
        None for any other value, which ``tree.traverse`` then keeps.
    """
    if isinstance(value, tff.structure.Struct):
        container: object = tff.structure.to_odict_or_tuple(value)
        return container
    tensor = cast("Any", value)
    if isinstance(value, tf.RaggedTensor):
        return collections.OrderedDict[str, object](
            flat_values=tensor.flat_values.numpy(),
            nested_row_splits=tuple(splits.numpy() for splits in tensor.nested_row_splits),
        )
    if isinstance(value, tf.sparse.SparseTensor):
        return collections.OrderedDict[str, object](
            indices=tensor.indices.numpy(), values=tensor.values.numpy(), dense_shape=tensor.dense_shape.numpy()
        )
    return None
