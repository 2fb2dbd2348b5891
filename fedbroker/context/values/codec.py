"""Serializes executor values from and to Python, with one copy of each array when writing and none when reading.

The format is TFF's own. A large array is its dtype, its shape and then its memory unchanged (``Array.content``), so
only the frame around it is written and read here. Values not covered here go through TFF's serializer. Sequences are
never read by it: it would run their graph in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeGuard, cast

import numpy as np
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import array_pb2, computation_pb2, executor_pb2
from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
from tensorflow_federated.python.core.impl.compiler import array
from tensorflow_federated.python.core.impl.executors import value_serialization
from tensorflow_federated.python.core.impl.types import (
    array_shape,
    dtype_utils,
    type_conversions,
    type_serialization,
)

from fedbroker.context.values.containers import columns, dataset, with_composites
from fedbroker.errors import UsageError, WireError
from fedbroker.plan.model import FunctionResult, Plan, Slot, Template
from fedbroker.runtime.values import (
    ARRAY,
    ARRAY_CONTENT,
    COMPUTATION,
    ELEMENT,
    ELEMENT_NAME,
    ELEMENT_VALUE,
    FEDERATED,
    FEDERATED_TYPE,
    MEMBER,
    STRUCT,
    Buffer,
    fields,
    framed,
    struct,
)
from fedbroker.wire.blobs import joined

__all__ = [
    "ELEMENTS",
    "MEMBERS",
    "assemble",
    "each",
    "elements_of",
    "federate",
    "federated",
    "filled",
    "read",
    "serialize",
    "split",
    "structure",
    "write",
]

MEMBERS: Final = (FEDERATED, MEMBER)
ELEMENTS: Final = (STRUCT, ELEMENT, ELEMENT_VALUE)
"""Paths for :func:`each` to the members of a serialized value, and to the values of its elements."""

_SAME_VERSION: Final = "use the same version of fedbroker on both sides"


def serialize(value: object, type_: tff.Type) -> Buffer:
    """Return a Python value as a serialized ``executor.Value`` of that type.

    Raises:
        UsageError: the value is not of that type; with TFF's error.
    """
    try:
        return joined(write(value, type_))
    except (TypeError, ValueError, NotImplementedError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"a value does not fit the type {type_}: {words}") from error


def write(value: object, type_: tff.Type) -> list[Buffer]:
    """Serialize a value into parts, to be joined; the parts of large arrays are the arrays' own memory.

    Raises:
        TypeError, ValueError, NotImplementedError: the value is not of that type; TFF's exceptions.
    """
    if isinstance(value, tff.Computation | computation_pb2.Computation):
        return _by_tff(value, type_)
    if isinstance(type_, tff.TensorType) and _is_plain(value, type_):
        return _write_array(value)
    if isinstance(type_, tff.FederatedType) and (type_.all_equal or isinstance(value, list)):
        members = cast("list[object]", [value] if type_.all_equal else value)
        return federated((write(member, type_.member) for member in members), type_)
    if isinstance(type_, tff.StructType):
        elements = tff.structure.to_elements(tff.structure.from_container(value))
        if len(elements) == len(type_):
            pairs = zip(tff.structure.to_elements(type_), elements, strict=True)
            return struct((name, write(element, inner)) for (name, inner), (_, element) in pairs)
    return _by_tff(value, type_)


def federated(members: Iterable[Sequence[Buffer]], type_: tff.FederatedType) -> list[Buffer]:
    """Return the parts of a serialized federated value with these members, each given in parts, too."""
    kind = type_serialization.serialize_type(type_).federated.SerializeToString(deterministic=True)
    parts = framed(FEDERATED_TYPE, [kind])
    for member in members:
        parts += framed(MEMBER, member)
    return framed(FEDERATED, parts)


def read(data: Buffer, type_: tff.Type) -> object:
    """Deserialize a value as TFF's own contexts would return it; large arrays are views of ``data``.

    A sequence is the struct of its length and its columns: see
    :func:`fedbroker.context.values.sequences.read_sequences`.

    Raises:
        TypeError, ValueError: ``data`` is no value of that type.
    """
    parts = list(fields(data))
    if len(parts) == 1:
        (number, content), *_ = parts
        if isinstance(type_, tff.SequenceType):
            return _read_sequence(data, type_)
        if number == ARRAY and isinstance(type_, tff.TensorType) and (found := _read_array(content, type_)) is not None:
            return found
        if number == STRUCT and isinstance(type_, tff.StructType):
            return _read_struct(content, type_)
        if number == FEDERATED and isinstance(type_, tff.FederatedType):
            return _read_federated(content, type_)
    if any(number not in (ARRAY, COMPUTATION) for number, _ in parts):
        raise ValueError(f"a value is not of the type {type_}")
    value, _ = value_serialization.deserialize_value(executor_pb2.Value.FromString(bytes(data)), type_)
    return value


def _by_tff(value: object, type_: tff.Type) -> list[Buffer]:
    proto, _ = value_serialization.serialize_value(value, type_)
    return [proto.SerializeToString(deterministic=True)]


def _is_plain(value: object, type_: tff.TensorType) -> TypeGuard[np.ndarray[Any, Any]]:
    """Return whether the value is an array that has exactly that dtype and is written by TFF as its memory."""
    if not isinstance(value, np.ndarray):
        return False
    dtype: np.dtype[Any] = cast("Any", value).dtype
    return (
        dtype.type is type_.dtype.type
        and dtype.isnative
        and dtype.type is not np.str_
        and not array_shape.is_shape_scalar(type_.shape)
        and bool(array.is_compatible_shape(value, type_.shape))
    )


def _write_array(value: np.ndarray[Any, Any]) -> list[Buffer]:
    head = array_pb2.Array(dtype=dtype_utils.to_proto(value.dtype.type), shape=array_shape.to_proto(value.shape))
    memory = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    return framed(ARRAY, [head.SerializeToString(deterministic=True), *framed(ARRAY_CONTENT, [memory])])


def _read_array(data: memoryview, type_: tff.TensorType) -> object | None:
    if type_.dtype.type is np.str_ or array_shape.is_shape_scalar(type_.shape):
        return None
    contents = list(each(data, ARRAY_CONTENT))
    if len(contents) != 1:
        return None
    (content,) = contents
    # The content comes last: fields are in the order of their numbers, and its number is the largest.
    framing = framed(ARRAY_CONTENT, [content])[0]
    head = array_pb2.Array.FromString(bytes(data[: len(data) - len(framing) - len(content)]))
    shape = array_shape.from_proto(head.shape)
    found = np.frombuffer(content, dtype_utils.from_proto(head.dtype))
    return None if array_shape.is_shape_scalar(shape) else found.reshape(shape)


def _read_struct(data: memoryview, type_: tff.StructType) -> tff.structure.Struct:
    elements: list[tuple[str | None, object]] = []
    for element, (_, inner) in zip(each(data, ELEMENT), tff.structure.to_elements(type_), strict=False):
        name = b"".join(each(element, ELEMENT_NAME)).decode() or None
        elements.append((name, read(next(each(element, ELEMENT_VALUE), memoryview(b"")), inner)))
    return tff.structure.Struct(elements)


def _read_sequence(data: Buffer, type_: tff.SequenceType) -> object:
    tensors = list(elements_of(data))
    kinds = columns(type_.element)
    if len(tensors) != 1 + len(kinds):
        raise ValueError("a sequence comes without its tensors")
    count, *tensors = tensors
    arrays = [read(tensor, kind.type) for tensor, kind in zip(tensors, kinds, strict=True)]
    return dataset(arrays, int(cast("int", read(count, tff.TensorType(np.int64)))), type_.element)


def _read_federated(data: memoryview, type_: tff.FederatedType) -> object:
    members = list(each(data, MEMBER))
    if not members:
        raise ValueError("a federated value without any value")
    if type_.all_equal:
        return read(members[0], type_.member)
    return [read(member, type_.member) for member in members]


def filled(type_: tff.Type, tensors: Iterator[object]) -> object:
    """Return the next tensors, left to right, as a value of a type: tensors, alone or in structs."""
    if isinstance(type_, tff.StructType):
        parts = tff.structure.iter_elements(type_)
        return tff.structure.Struct[object]([(name, filled(part, tensors)) for name, part in parts])
    return next(tensors)


def elements_of(value: Buffer) -> Iterator[memoryview]:
    """Iterate over the serialized elements of a serialized struct, as views of it.

    Raises:
        ValueError: the struct is malformed.
    """
    return each(value, *ELEMENTS)


def each(message: Buffer, *path: int) -> Iterator[memoryview]:
    """Iterate over the contents of a message at a path of fields, as views of it.

    Raises:
        ValueError: the message is malformed.
    """
    first, *rest = path
    for number, content in fields(message):
        if number == first:
            yield from each(content, *rest) if rest else [content]


def split(data: Buffer, path: tuple[int, ...]) -> list[memoryview]:
    """Return the serialized members or elements of a silo's serialized value, as views of it.

    Args:
        data: the value.
        path: :data:`MEMBERS` of a federated value, or :data:`ELEMENTS` of a struct.

    Raises:
        WireError: ``data`` is malformed.
    """
    try:
        return list(each(data, *path))
    except ValueError as error:
        raise WireError(f"a silo's answer is not a value: {error}", hint=_SAME_VERSION) from None


def federate(values: Iterable[Buffer], type_: tff.FederatedType) -> Buffer:
    """Return a serialized federated value of that type with these serialized members."""
    return joined(federated(([value] for value in values), type_))


def structure(values: Iterable[Buffer]) -> list[Buffer]:
    """Return the parts of a serialized struct of these serialized values; joined, they are the struct."""
    return struct((None, [value]) for value in values)


def assemble(plan: Plan, values: Mapping[str, Sequence[Buffer]]) -> object:
    """Return a result in the Python containers of the computation's type, with TFF's own dtypes.

    Args:
        plan: plan of the computation.
        values: serialized values of the result's slots, by name: one or, for a clients-placed slot, one for each silo.
    """
    python = _fill(plan.result, values)
    contained = type_conversions.type_to_py_container(python, with_composites(plan.type.result))
    return tensorflow_computation.transform_result(contained)


def _fill(template: Template, values: Mapping[str, Sequence[Buffer]]) -> object:
    if isinstance(template, FunctionResult):
        return template.computation
    if not isinstance(template, Slot):
        return tff.structure.Struct([(name, _fill(element, values)) for name, element in template.elements])
    type_, parts = template.type, values[template.name]
    if not isinstance(type_, tff.FederatedType) or type_.placement is not tff.CLIENTS:
        return read(parts[0], type_)
    members = [member for part in parts for member in split(part, MEMBERS)]
    if not members:
        return []
    # The runtime does not distinguish all-equal values from others: it returns one value for each client.
    return read(federate(members[:1] if type_.all_equal else members, type_), type_)
