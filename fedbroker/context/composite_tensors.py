"""Ragged and sparse tensors, which TFF's types represent as structs of their parts."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, Final

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.types import type_transformations

__all__ = ["apart", "together"]


def apart(value: object) -> object | None:
    """Return the parts of a ragged or sparse tensor, by their names in TFF; None for any other value."""
    if isinstance(value, tf.RaggedTensor):
        return collections.OrderedDict(
            flat_values=value.flat_values.numpy(),
            nested_row_splits=tuple(splits.numpy() for splits in value.nested_row_splits),
        )
    if isinstance(value, tf.sparse.SparseTensor):
        return collections.OrderedDict(
            indices=value.indices.numpy(), values=value.values.numpy(), dense_shape=value.dense_shape.numpy()
        )
    return None


def together(type_: tff.Type) -> tff.Type:
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
