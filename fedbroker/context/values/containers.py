"""Python and TensorFlow containers of values: composite tensors, and datasets made of the tensors of their elements."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_federated.python.core.impl.types import type_conversions, type_transformations

__all__ = ["Column", "columns", "dataset", "with_composites"]


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


@functools.lru_cache(256)
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
