"""Type checks of a silo's outputs, before any other code reads them.

The values go to the coordinator's C++ runtime and to TFF's deserializer, and both would run a graph found in them. So
the frames must have the layout that the runtime writes, with tensors where the type has tensors and nothing else.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from typing import Final, TypeGuard

import numpy as np
import tensorflow_federated as tff
from google.protobuf.message import DecodeError
from tensorflow_federated.proto.v0 import array_pb2, computation_pb2
from tensorflow_federated.python.core.impl.compiler import array
from tensorflow_federated.python.core.impl.types import array_shape, dtype_utils

from fedbroker.context.values.codec import each
from fedbroker.context.values.ops import is_split, parts_of
from fedbroker.errors import WireError
from fedbroker.graphs import ops_of_graph, why_refused
from fedbroker.plan.model import ClientStage
from fedbroker.runtime.values import (
    ARRAY,
    ARRAY_CONTENT,
    ARRAY_SHAPE,
    ELEMENT,
    ELEMENT_NAME,
    ELEMENT_VALUE,
    FEDERATED,
    FEDERATED_TYPE,
    MEMBER,
    SEQUENCE,
    SEQUENCE_GRAPH,
    SEQUENCE_TYPE,
    STRUCT,
    Buffer,
    fields,
    number_of,
    prefix,
)

__all__ = ["check_reply", "check_value"]

FIELDS: Final = 3
"""Number of fields of an array (dtype, shape, numbers) and of a federated type (placement, all-equal, member type)."""
PLACEMENT: Final = number_of(computation_pb2.FederatedType, "placement")
LONGEST_PLACEMENT: Final = 64
"""Largest number of bytes of a placement, which is the word "server" or "clients"."""
LONGEST_SHAPE: Final = 4096
"""Largest number of bytes of a shape: enough for many more than :data:`MOST_DIMENSIONS`."""
MOST_DIMENSIONS: Final = 32
"""Largest number of dimensions of a NumPy array."""

_UNKNOWN: Final = "it is laid out in an unknown way"
_HINT: Final = "use the same version at both ends, or see which process replies in the silo's name"


def check_reply(stage: ClientStage, outputs: Sequence[Buffer], clients: int) -> None:
    """Check that a silo's outputs are the stage's partials and returned values, of their types.

    Masked values have no type that can be checked: their sizes are, where they are added.

    Args:
        stage: the stage that was run.
        outputs: serialized outputs.
        clients: number of the silo's clients.

    Raises:
        WireError: an output is of another type.
    """
    parts = parts_of(stage, outputs)
    if not is_split(stage):
        _check_frame(outputs[0], len(parts))
    for part, slot in zip(parts, (*stage.partials, *stage.returned), strict=True):
        assert isinstance(slot.type, tff.FederatedType), "values that cross are placed"
        check_value(part, slot.type, clients)


def _check_frame(struct: Buffer, count: int) -> None:
    """Check that a serialized struct contains so many elements without names, and nothing else."""
    try:
        for element in _all(_only(memoryview(struct), STRUCT), ELEMENT, count):
            _only(element, ELEMENT_VALUE)
    except ValueError as error:
        raise WireError(f"a silo's answer is not a struct of {count} values: {error}", hint=_HINT) from None


def check_value(value: Buffer, type_: tff.FederatedType, clients: int) -> None:
    """Check that a serialized value is of a type; if that is placed at clients, with one member for each client.

    Raises:
        WireError: the value is of another type.
    """
    count = clients if type_.placement is tff.CLIENTS else 1
    try:
        federated = _only(memoryview(value), FEDERATED)
        for member in _all(federated, MEMBER, count, besides=FEDERATED_TYPE):
            _check(member, type_.member)
        _check_placement(federated, type_, count)
    except (ValueError, OverflowError, NotImplementedError, DecodeError) as error:
        raise WireError(f"a value is not of the type {type_}: {' '.join(str(error).split())}", hint=_HINT) from None


def _check_placement(federated: memoryview, type_: tff.FederatedType, count: int) -> None:
    """Check that the value states the type's placement; the member type that it states is not used."""
    kinds = [content for number, content in fields(federated, count + 1) if number == FEDERATED_TYPE]
    specs = [content for kind in kinds for number, content in fields(kind, FIELDS) if number == PLACEMENT]
    if len(kinds) != 1 or len(specs) != 1 or len(specs[0]) > LONGEST_PLACEMENT:
        raise ValueError("a value without a placement")
    placement = computation_pb2.PlacementSpec.FromString(bytes(specs[0])).value.uri
    if placement != type_.placement.uri:
        raise ValueError(f"a value at {placement[:40]!r}")


def _check(value: memoryview, type_: tff.Type) -> None:
    match type_:
        case tff.TensorType():
            _check_array(_only(value, ARRAY), type_)
        case tff.StructType():
            elements = _all(_only(value, STRUCT), ELEMENT, len(type_))
            for element, (name, inner) in zip(elements, tff.structure.iter_elements(type_), strict=True):
                inside = _only(element, ELEMENT_VALUE, besides=ELEMENT_NAME)
                if any(found != (name or "").encode() for found in each(element, ELEMENT_NAME)):
                    raise ValueError("a struct with other names")
                _check(inside, inner)
        case tff.SequenceType():
            _check_sequence(_only(value, SEQUENCE))
        case _:
            raise ValueError(f"nothing of the type {type_} comes from a silo")


def _check_array(message: memoryview, type_: tff.TensorType) -> None:
    """Check dtype, shape and size of an array, and that its numbers are where TFF's deserializer reads them."""
    usual, size = _usual(type_.dtype.type, type_.shape)
    if usual and len(message) == len(usual) + size and bytes(message[: len(usual)]) == usual:
        return
    found = dict(fields(message, FIELDS))
    content = found.get(ARRAY_CONTENT)
    if len(found.get(ARRAY_SHAPE, b"")) > LONGEST_SHAPE:
        raise ValueError("an array of too many dimensions")
    # The content comes last: fields are in the order of their numbers, and its number is the largest.
    rest = message
    if content is not None:
        rest = message[: len(message) - len(prefix(ARRAY_CONTENT, len(content))) - len(content)]
    if any(number == ARRAY_CONTENT for number, _ in fields(rest, FIELDS)):
        raise ValueError(_UNKNOWN)
    head = array_pb2.Array.FromString(bytes(rest))
    dtype, shape = dtype_utils.from_proto(head.dtype), array_shape.from_proto(head.shape)
    if dtype is not type_.dtype.type or not _fits(shape, type_.shape) or not _possible(shape, type_.dtype.itemsize):
        raise ValueError(f"an array of {dtype.__name__} in the shape {shape}")
    if dtype is np.str_:
        found_count = len(head.string_list.value)
    elif not shape:
        array.from_proto(head)  # raises an error if its only number is invalid
        found_count = 1
    else:
        found_count, odd = divmod(0 if content is None else len(content), type_.dtype.itemsize)
        if odd or head.WhichOneof("kind") is not None:
            raise ValueError(_UNKNOWN)
    if found_count != math.prod(shape):
        raise ValueError(f"an array in the shape {shape}, which holds {found_count} values")


@functools.lru_cache(4096)
def _usual(dtype: type[np.generic], shape: array_shape.ArrayShape) -> tuple[bytes, int]:
    """Return the bytes before an array's memory, and its size; empty if the type does not determine them."""
    if not shape or None in shape or dtype is np.str_:
        return b"", 0
    size = math.prod(shape) * np.dtype(dtype).itemsize
    head = array_pb2.Array(dtype=dtype_utils.to_proto(dtype), shape=array_shape.to_proto(shape))
    return b"".join([head.SerializeToString(deterministic=True), prefix(ARRAY_CONTENT, size)]), size


def _fits(shape: Sequence[int | None] | None, expected: Sequence[int | None] | None) -> TypeGuard[Sequence[int]]:
    if shape is None or None in shape:
        return False
    if expected is None:
        return True
    return len(shape) == len(expected) and all(b is None or a == b for a, b in zip(shape, expected, strict=True))


def _possible(shape: Sequence[int], itemsize: int) -> bool:
    """Return whether NumPy has arrays of that shape: it limits the bytes of the other dimensions even if one is 0."""
    return len(shape) <= MOST_DIMENSIONS and math.prod(filter(None, shape)) * max(itemsize, 8) <= sys.maxsize


def _check_sequence(message: memoryview) -> None:
    """Check that a sequence's graph reads only data within it: TFF runs the graph in the process that reads it."""
    graph = _only(message, SEQUENCE_GRAPH, besides=SEQUENCE_TYPE)
    refused = sorted(op for op in ops_of_graph(graph) if why_refused(op))
    if refused:
        raise ValueError(f"a sequence with the TensorFlow op {refused[0][:80]} in it, which {why_refused(refused[0])}")


def _only(message: memoryview, number: int, *, besides: int | None = None) -> memoryview:
    """Return the content of a field that occurs once, with no other field but ``besides``."""
    return _all(message, number, 1, besides=besides)[0]


def _all(message: memoryview, number: int, count: int, *, besides: int | None = None) -> list[memoryview]:
    """Return the contents of a field that occurs ``count`` times, with no other field but ``besides``, once."""
    found = list(fields(message, count + (besides is not None)))
    if any(found_number not in (number, besides) for found_number, _ in found):
        raise ValueError(_UNKNOWN)
    contents = [content for found_number, content in found if found_number == number]
    if len(contents) != count:
        raise ValueError(f"{len(contents)} values, and not {count}")
    return contents
