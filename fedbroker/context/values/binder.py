"""The binder: a computation that makes the value which a program takes of a client's columns, in the silo's runtime.

Rows that come several times, in another order, or not all, are found by their indices. ``Dataset.shuffle`` would need a
buffer of all rows, and has a state that the runtime cannot hand from one computation to the next.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.native import compiler as native

from fedbroker.context.values.data import SiloData
from fedbroker.errors import UsageError
from fedbroker.plan.model import serialize_computation

__all__ = ["Leaf", "make_binder", "selected_rows"]

SEED: Final = tff.StructType([tff.TensorType(np.int64, [2])])
"""The type of a client's seed: see :class:`fedbroker.wire.messages.Seeds`."""

ROUNDS: Final = 4
"""Rounds of the cipher that permutes indices; TensorFlow's own number."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of the expected value.

    Attributes:
        column: name of its column, or ``#`` and the position.
        dtype: NumPy name of the dtype that the silo converts to (``str`` for text).
        row: shape of one row.
    """

    column: str
    dtype: str
    row: tuple[int | None, ...]


def make_binder(
    expected: tff.Type, leaves: Sequence[Leaf], handle: SiloData, batch: tuple[int, bool] | None, *, scalar: bool
) -> bytes:
    """Return the binder as a serialized executor value.

    Args:
        expected: the member type.
        leaves: one for each column.
        handle: says how often and in which order rows come.
        batch: the rows in each element of a sequence, and whether a shorter last one is dropped; None for single rows.
        scalar: each column has one row, passed without its first dimension.

    Raises:
        UsageError: the value that it makes is not of the type.
    """
    rows: tuple[None, ...] = () if scalar else (None,)
    columns = tff.StructType([tff.TensorType(_numpy_type(leaf.dtype), (*rows, *leaf.row)) for leaf in leaves])

    def value(arrays: Sequence[tf.Tensor], seed: Sequence[tf.Tensor]) -> object:
        if not isinstance(expected, tff.SequenceType):
            # A first dimension of fixed length is checked at run time: the number of rows is only known then.
            return _pack(expected, iter(list(arrays)), lambda array, type_: tf.ensure_shape(array, type_.shape))

        def pack(tensors: Sequence[tf.Tensor]) -> object:
            return _pack(expected.element, iter(list(tensors)), lambda array, _: array)

        if handle.is_plain:
            dataset = tf.data.Dataset.from_tensor_slices(pack(arrays))
            return dataset if batch is None else dataset.batch(batch[0], drop_remainder=batch[1])
        return selected_rows(list(arrays), pack, handle, batch, list(seed))

    def value_in_order(arrays: Sequence[tf.Tensor]) -> object:
        return value(arrays, ())

    if handle.shuffle:
        build = tff.tensorflow.computation(value, columns, SEED)
        bind = _mapped_over_both(build)
    else:
        build = tff.tensorflow.computation(value_in_order, columns)
        bind = _mapped(build)
    if not expected.is_assignable_from(build.type_signature.result):
        raise UsageError(f"data cannot be bound to {expected}", hint=f"it would be {build.type_signature.result}")
    compiled = native.desugar_and_transform_to_native(bind)
    return serialize_computation(tff.framework.ConcreteComputation.get_proto(compiled))


def _mapped(build: tff.Computation) -> tff.Computation:
    def bind(arrays: object) -> object:
        return tff.federated_map(build, arrays)

    return tff.federated_computation(bind, tff.FederatedType(build.type_signature.parameter, tff.CLIENTS))


def _mapped_over_both(build: tff.Computation) -> tff.Computation:
    def bind(arrays: object, seeds: object) -> object:
        return tff.federated_map(build, (arrays, seeds))

    placed = [tff.FederatedType(part, tff.CLIENTS) for part in build.type_signature.parameter]
    return tff.federated_computation(bind, *placed)


def selected_rows(
    columns: Sequence[tf.Tensor],
    pack: Callable[[Sequence[tf.Tensor]], object],
    handle: SiloData,
    batch: tuple[int, bool] | None,
    seed: Sequence[tf.Tensor],
) -> tf.data.Dataset:
    """Return the data set of the rows that a handle asks for; of the seed, each epoch makes an order of its own."""
    rows = tf.shape(columns[0], tf.int64)[0]
    of_epoch = rows if handle.limit is None else tf.minimum(rows, handle.limit)

    def rows_at(positions: tf.Tensor) -> object:
        indices = positions % of_epoch
        if handle.shuffle:
            epochs = positions // of_epoch
            first, second = (tf.fill(tf.shape(epochs), word) for word in tf.unstack(seed[0]))
            seeds = tf.stack([first, second, epochs], axis=-1)
            indices = tf.raw_ops.RandomIndexShuffle(index=indices, seed=seeds, max_index=rows - 1, rounds=ROUNDS)
        return pack([tf.gather(column, indices) for column in columns])

    positions = tf.data.Dataset.range(of_epoch * handle.epochs)
    if batch is not None:
        positions = positions.batch(batch[0], drop_remainder=batch[1])
    return positions.map(rows_at)


def _numpy_type(dtype: str) -> type[np.generic]:
    return np.str_ if dtype == "str" else np.dtype(dtype).type


def _pack(
    type_: tff.Type, arrays: Iterator[tf.Tensor], checked: Callable[[tf.Tensor, tff.TensorType], tf.Tensor]
) -> object:
    """Arrange the arrays in the structure of ``type_``, each passed through ``checked``."""
    if isinstance(type_, tff.TensorType):
        return checked(next(arrays), type_)
    elements = [(name, _pack(element, arrays, checked)) for name, element in tff.structure.iter_elements(type_)]
    if all(name is None for name, _ in elements):
        return tuple(value for _, value in elements)
    return collections.OrderedDict(elements)
