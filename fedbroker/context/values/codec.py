"""Serializes executor values from and to Python, with one copy of each array when writing and none when reading.

The format is TFF's own. A large array is its dtype, its shape and then its memory unchanged (``Array.content``), so
only the frame around it is written and read here. Values not covered here go through TFF's serializer. Sequences are
never read by it: it would run their graph in this process.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard, cast

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_federated.proto.v0 import array_pb2, computation_pb2, executor_pb2
from tensorflow_federated.python.core.impl.compiler import array
from tensorflow_federated.python.core.impl.executors import value_serialization
from tensorflow_federated.python.core.impl.types import (
    array_shape,
    dtype_utils,
    type_conversions,
    type_serialization,
    type_transformations,
)

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

__all__ = [
    "ELEMENTS",
    "MEMBERS",
    "columns",
    "each",
    "elements_of",
    "expand_composite",
    "federated",
    "read",
    "with_composites",
    "write",
]

MEMBERS: Final = (FEDERATED, MEMBER)
ELEMENTS: Final = (STRUCT, ELEMENT, ELEMENT_VALUE)
"""Paths for :func:`each` to the members of a serialized value, and to the values of its elements."""


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


@dataclass(frozen=True, slots=True)
class Column:
    """The tensors at one leaf of a sequence's elements.

    Attributes:
        leaf: the type of one tensor.
    """

    leaf: tff.TensorType

    @property
    def is_serialized(self) -> bool:
        """True if each tensor is serialized by itself, because their shapes vary."""
        return self.leaf.shape is None or None in self.leaf.shape

    @property
    def type(self) -> tff.TensorType:
        """The type of the column."""
        if self.is_serialized:
            return tff.TensorType(np.str_, [None])
        assert self.leaf.shape is not None
        return tff.TensorType(self.leaf.dtype, [None, *self.leaf.shape])

    @property
    def dtype(self) -> tf.DType:
        """TensorFlow's dtype for the leaf's."""
        return tf.dtypes.as_dtype(self.leaf.dtype.type)


def columns(element: tff.Type) -> list[Column]:
    """Return the columns of a sequence of elements of that type, in the order of the type."""
    if isinstance(element, tff.TensorType):
        return [Column(element)]
    return [column for _, inner in tff.structure.iter_elements(element) for column in columns(inner)]


def dataset(arrays: Sequence[object], count: int, element: tff.Type) -> tf.data.Dataset:
    """Return a dataset of elements of that type.

    Args:
        arrays: the columns.
        count: number of elements.
        element: type of each element.

    Raises:
        ValueError: a serialized tensor is not of its leaf's type.
    """
    kinds = columns(element)
    tensors = tuple(map(_tensor, kinds, arrays))
    if any(len(tensor) != count for tensor in tensors):
        raise ValueError("the tensors of a sequence's elements are not equally many")
    if isinstance(element, tff.TensorType) and not kinds[0].is_serialized:
        return tf.data.Dataset.from_tensor_slices(tensors[0])
    container = with_composites(element)

    def element_of(*leaves: tf.Tensor) -> object:
        parsed = (_parsed(kind, leaf) for kind, leaf in zip(kinds, leaves, strict=False))
        return type_conversions.type_to_py_container(_structure(element, parsed), container)

    rows = tf.data.Dataset.from_tensor_slices(tensors) if tensors else tf.data.Dataset.range(count)
    return rows.map(tf.autograph.experimental.do_not_convert(element_of))


def _tensor(column: Column, array: object) -> tf.Tensor:
    if not column.is_serialized:
        return tf.constant(array, column.dtype)
    texts = [bytes(text) for text in np.asarray(array, np.object_)]
    for text in texts:
        _check(column, text)
    return tf.constant(texts, tf.string, [len(texts)])


def _check(column: Column, text: bytes) -> None:
    """Check that the text is a plain tensor of the leaf's dtype and of a shape that fits."""
    try:
        proto = tensor_pb2.TensorProto.FromString(text)
    except DecodeError:
        raise ValueError("an element of a sequence is no tensor") from None
    shape = tf.TensorShape(proto.tensor_shape)
    if proto.dtype != column.dtype.as_datatype_enum or not shape.is_compatible_with(column.leaf.shape):
        raise ValueError(f"an element of a sequence is not of the type {column.leaf}")


def _parsed(column: Column, leaf: tf.Tensor) -> tf.Tensor:
    if not column.is_serialized:
        return leaf
    return tf.ensure_shape(tf.io.parse_tensor(leaf, column.dtype), column.leaf.shape)


def _structure(type_: tff.Type, leaves: Iterator[Any]) -> object:
    if isinstance(type_, tff.TensorType):
        return next(leaves)
    elements = tff.structure.iter_elements(type_)
    return tff.structure.Struct([(name, _structure(inner, leaves)) for name, inner in elements])


def expand_composite(value: object) -> object | None:
    """Return the parts of a ragged or sparse tensor, by their names in TFF; None for any other value."""
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


def with_composites(type_: tff.Type) -> tff.Type:
    """Return ``type_`` with containers that make ragged and sparse tensors of their parts, which TFF's own cannot."""
    made, _ = type_transformations.transform_type_postorder(type_, _contained)
    return made


class _Ragged:
    """A container type that makes a ``tf.RaggedTensor`` of its parts."""

    def __new__(cls, parts: Sequence[tuple[str, Any]]) -> tf.RaggedTensor:
        named = dict(parts)
        return tf.RaggedTensor.from_nested_row_splits(named["flat_values"], named["nested_row_splits"])


class _Sparse:
    """A container type that makes a ``tf.sparse.SparseTensor`` of its parts."""

    def __new__(cls, parts: Sequence[tuple[str, Any]]) -> tf.sparse.SparseTensor:
        return tf.sparse.SparseTensor(**dict(parts))


_CONTAINERS: Final = {tf.RaggedTensor: _Ragged, tf.sparse.SparseTensor: _Sparse}


def _contained(type_: tff.Type) -> tuple[tff.Type, bool]:
    container = _CONTAINERS.get(type_.python_container) if isinstance(type_, tff.StructType) else None
    if container is None:
        return type_, False
    return tff.types.StructWithPythonType(list(tff.structure.iter_elements(type_)), container), True
