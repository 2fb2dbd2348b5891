"""The aggregates that a silo computes over its own clients for a secure sum, where TFF's own do not serve.

TFF's modular sum adds before it reduces, and overflows; its other secure sums need shapes that are known in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_backend import tensorflow_computation_factory
from tensorflow_federated.python.core.impl.compiler import building_block_factory
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.aggregation import aggregate
from fedbroker.plan.blocks import Block, Untyped, element_types, tf, untyped

__all__ = ["bounded_sum", "checked_below", "has_static_shapes", "modular_sum", "tensors_of"]

_tensorflow: Final = untyped(tensorflow_computation_factory)
_factory: Final = untyped(building_block_factory)
_flatten: Final = untyped(tff.structure.flatten)
_pack: Final = untyped(tff.structure.pack_sequence_as)

Add = Callable[[Untyped, Untyped, Untyped], Untyped]
"""Adds a client's tensor to a sum, given its bound or modulus."""


def tensors_of(type_: tff.Type) -> Iterator[tff.TensorType]:
    """Yield the tensor types of a type, left to right."""
    if isinstance(type_, tff.StructType):
        for _, part in element_types(type_):
            yield from tensors_of(part)
    else:
        assert isinstance(type_, tff.TensorType)
        yield type_


def has_static_shapes(type_: tff.Type) -> bool:
    """Return whether a type determines the shapes of all of its tensors."""
    return all(tensor.shape is not None and None not in tensor.shape for tensor in tensors_of(type_))


def modular_sum(value: Block, modulus: Block) -> Block:
    """Return the sum of client values modulo a number, or one number for each tensor; never overflows.

    Args:
        value: client values.
        modulus: from 1 to the largest value of the tensors' dtype.
    """

    def add(total: Untyped, part: Untyped, number: Untyped) -> Untyped:
        number = tf.cast(number, part.dtype)
        return _add_modulo(total, tf.math.floormod(part, number), number)

    def merge(total: Untyped, part: Untyped, number: Untyped) -> Untyped:
        return _add_modulo(total, part, tf.cast(number, part.dtype))

    return _sum(value, modulus, add, merge)


def bounded_sum(value: Block, bound: Block, *, bits: bool) -> Block:
    """Return the sum of client values of any shape, with the same checks and errors as TFF's own secure sums.

    Args:
        value: client values.
        bound: their largest value, or one for each tensor.
        bits: the bound is a number of bits.
    """

    def add(total: Untyped, part: Untyped, number: Untyped) -> Untyped:
        number = tf.cast(number, tf.int64)
        if bits:
            number = tf.math.pow(tf.constant(2, tf.int64), number) - 1
        below = tf.reduce_all(tf.less_equal(tf.cast(part, tf.int64), number))
        check = tf.Assert(below, ["client value larger than maximum specified for secure sum"])
        with tf.control_dependencies([check]):
            return total + part

    return _sum(value, bound, add, lambda total, part, _: total + part)


def checked_below(value: Block, largest: Sequence[int | None]) -> Block:
    """Return client values, checked to be between minus and plus a number where TFF's own check accepts others.

    Args:
        value: client values.
        largest: for each tensor, the largest absolute value; None for tensors that are not checked.
    """
    assert isinstance(value.type_signature, tff.FederatedType)
    member = value.type_signature.member
    checks = [_check_of(tensor, number) for tensor, number in zip(tensors_of(member), largest, strict=True)]
    if not any(checks):
        return value

    def checked(values: Untyped) -> object:
        tensors = _flatten(values)
        valid = [check(tensor) for check, tensor in zip(checks, tensors, strict=True) if check is not None]
        asserted = [tf.Assert(one, ["client value beyond the bound specified for secure sum"]) for one in valid]
        with tf.control_dependencies(asserted):
            return _pack(values, [tf.identity(tensor) for tensor in tensors])

    function = _unary(checked, member)
    return _factory.create_federated_map_or_apply(function, value)


def _check_of(type_: tff.TensorType, largest: int | None) -> Callable[[Untyped], Untyped] | None:
    """Return a check of what TFF's check passes over: numbers below minus the bound, or from 2^63 on."""
    dtype = type_.dtype.type
    limits = np.iinfo(dtype)
    if largest is None or largest >= limits.max:
        return None
    if limits.min < 0:
        return lambda tensor: tf.reduce_all(tensor >= tf.constant(-largest, tensor.dtype))
    if limits.bits == 64:
        return lambda tensor: tf.reduce_all(tensor <= tf.constant(largest, tensor.dtype))
    return None


def _add_modulo(total: Untyped, part: Untyped, modulus: Untyped) -> Untyped:
    """Return the sum of two numbers below the modulus, reduced, without overflow."""
    left = modulus - part
    return tf.where(total >= left, total - left, total + part)


def _sum(value: Block, bound: Block, add: Add, merge: Add) -> Block:
    """Return the aggregate of client values of any shape by a function of tensors.

    The accumulator is the sum, the number of clients in it and the bound. Before the first client, the sum is a zero
    whose unknown dimensions have size 0: the shape is known from the first client on.
    """
    assert isinstance(value.type_signature, tff.FederatedType)
    summed, bounds = value.type_signature.member, bound.type_signature
    types = list(tensors_of(summed))
    accumulator = tff.StructType([summed, np.int64, bounds])

    def combine(so_far: Untyped, values: Untyped, count: Untyped, function: Add) -> object:
        numbers = _for_each(so_far[2], bounds, summed)
        added: list[Untyped] = []
        for total, part, number, type_ in zip(_flatten(so_far[0]), _flatten(values), numbers, types, strict=True):
            left, right = _of_one_shape(total, so_far[1], part, count, type_)
            combined = function(left, right, number)
            combined.set_shape(type_.shape)
            added.append(combined)
        return _struct(_pack(so_far[0], added), so_far[1] + count, so_far[2])

    def accumulate(so_far: Untyped, part: Untyped) -> object:
        return combine(so_far, part, tf.constant(1, tf.int64), add)

    def merged(so_far: Untyped, other: Untyped) -> object:
        return combine(so_far, other[0], other[1], merge)

    def zero() -> object:
        return _struct(_nested(summed, iter([_zero(tensor) for tensor in types])), tf.constant(0, tf.int64))

    def total(so_far: Untyped) -> object:
        return so_far[0]

    start: Block = untyped(tff.tensorflow.computation)(zero).to_compiled_building_block()
    zeros = bb.Call(start, None)
    first = bb.Struct([bb.Selection(zeros, index=0), bb.Selection(zeros, index=1), bound])
    report = _unary(total, accumulator)
    steps = (_binary(accumulate, accumulator, summed), _binary(merged, accumulator, accumulator))
    return aggregate(value, first, *steps, report, accumulator)


def _of_one_shape(total: Untyped, count: Untyped, part: Untyped, others: Untyped, type_: tff.TensorType) -> Untyped:
    """Return two sums in one shape: a sum over no clients takes the other's."""
    if has_static_shapes(type_):
        return total, part
    total = tf.cond(count > 0, lambda: total, lambda: tf.zeros_like(part))
    part = tf.cond(others > 0, lambda: part, lambda: tf.zeros_like(total))
    same = tf.reduce_all(tf.equal(tf.shape(total), tf.shape(part)))
    with tf.control_dependencies([tf.Assert(same, ["clients' values of a secure sum have different shapes"])]):
        return tf.identity(total), tf.identity(part)


def _zero(type_: tff.TensorType) -> Untyped:
    shape = [0] if type_.shape is None else [size or 0 for size in type_.shape]
    zero = tf.zeros(shape, type_.dtype.type)
    return zero if has_static_shapes(type_) else tf.compat.v1.placeholder_with_default(zero, type_.shape)


def _for_each(numbers: Untyped, given: tff.Type, wanted: tff.Type) -> list[Untyped]:
    """Return the bound or modulus of each tensor of a type, left to right; a single one is for all."""
    if not isinstance(wanted, tff.StructType):
        return [tf.reshape(numbers, [])]
    each: list[Untyped] = []
    for index, (_, part) in enumerate(element_types(wanted)):
        if isinstance(given, tff.StructType):
            each += _for_each(numbers[index], element_types(given)[index][1], part)
        else:
            each += _for_each(numbers, given, part)
    return each


def _struct(*parts: Untyped) -> object:
    return untyped(tff.structure.Struct).unnamed(*parts)


def _nested(type_: tff.Type, tensors: Iterator[Untyped]) -> Untyped:
    if not isinstance(type_, tff.StructType):
        return next(tensors)
    return tff.structure.Struct[object]([(name, _nested(part, tensors)) for name, part in element_types(type_)])


def _unary(function: Callable[..., object], parameter: tff.Type) -> Block:
    proto, type_ = _tensorflow.create_unary_operator(function, parameter)
    return bb.CompiledComputation(proto, type_signature=type_)


def _binary(function: Callable[..., object], left: tff.Type, right: tff.Type) -> Block:
    proto, type_ = _tensorflow.create_binary_operator(function, left, right)
    return bb.CompiledComputation(proto, type_signature=type_)
