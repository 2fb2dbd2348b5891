"""The computations of which generated programs consist. Their source imports everything from here.

Each has its counterpart in ``shapes``, except those whose results depend on chance.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics as mapreduce

from tests.support.programs.shapes import MODULUS, D, F, L, N, Odict, V, build, dtype_of, text_of
from tests.support.programs.shapes import make as make_constant

__all__ = [
    "D",
    "F",
    "L",
    "N",
    "Odict",
    "V",
    "adding",
    "composed",
    "drawn",
    "fn",
    "given",
    "keys",
    "largest",
    "made",
    "mapreduce",
    "noised",
    "np",
    "plus",
    "raising",
    "reduced",
    "reducing",
    "same",
    "small",
    "tff",
    "traced",
    "variable",
    "zeros",
]


MOST_CACHED = 300
"""Computations of each kind: all those of thousands of programs would need too much memory."""


def cached(function):
    """Cache by the texts of shapes, which cannot be hashed: tracing takes most of a small program's time."""
    results = {}

    @functools.wraps(function)
    def cached_function(*arguments):
        key = tuple(argument if isinstance(argument, (str, int)) else text_of(argument) for argument in arguments)
        if key not in results:
            if len(results) == MOST_CACHED:
                results.clear()
            results[key] = function(*arguments)
        return results[key]

    return cached_function


def computation(function, *parameters):
    """Return a TensorFlow computation; several parameters make a tuple."""
    if not parameters:
        return tff.tensorflow.computation(function)
    return tff.tensorflow.computation(function, parameters if len(parameters) > 1 else tff.types.to_type(parameters[0]))


# --- arithmetic ---


def _leaves(value) -> list:
    if tf.is_tensor(value):
        return [value]
    return [leaf for part in tff.structure.from_container(value) for leaf in _leaves(part)]


def _folded(value, constant):
    total = tf.constant(constant, tf.int32)
    for weight, leaf in enumerate(_leaves(value), 1):
        whole = leaf if leaf.dtype.is_integer else tf.round(leaf)
        total += weight * tf.reduce_sum(tf.cast(tf.math.floormod(tf.cast(whole, tf.int64), MODULUS), tf.int32))
    return tf.math.floormod(total, MODULUS)


def _make(shape, number):
    def leaf(kind, at):
        one = tf.math.floormod(number * (at + 2) + at, MODULUS) - MODULUS // 2
        return tf.stack([one, one + 1]) if kind is V else tf.cast(one, kind)

    return build(shape, leaf)


def _leaf_by_leaf(function, shape, *values):
    flat = [_leaves(value) for value in values]
    return build(shape, lambda _, at: function(*(one[at] for one in flat)))


# --- functions that return the same for the same argument ---


@cached
def fn(parameter, result, constant):
    """Return a function between any two shapes."""
    return computation(lambda value: _make(result, _folded(value, constant)), parameter)


@cached
def traced(parameter, result, constant):
    """Return ``fn`` as a function of TensorFlow's own inside of the graph."""

    def function(value):
        inner = tf.function(lambda leaves: _make(result, _folded(leaves, constant)), autograph=False)
        return inner(tuple(_leaves(value)))

    return computation(function, parameter)


@cached
def variable(parameter, result, constant):
    """Return ``fn`` that keeps its constant in a variable."""

    def function(value):
        counter = tf.Variable(0)
        number = counter.assign_add(constant, read_value=True)
        return _make(result, tf.math.floormod(_folded(value, 0) + number, MODULUS))

    return computation(function, parameter)


@cached
def composed(parameter, result, constant):
    """Return a composition of several computations, with a struct, selections and a call without an argument."""
    first, last = fn(parameter, (N, F), constant), fn((N, F, N), result, 1)

    @tff.federated_computation(tff.types.to_type(parameter))
    def function(value):
        middle = first(value)
        return last(middle[0], middle[1], given(N, constant)())

    return function


@cached
def given(result, constant):
    """Return a function without a parameter."""
    return computation(lambda: _make(result, tf.constant(constant)))


@cached
def zeros(shape):
    return computation(lambda: build(shape, lambda kind, _: tf.zeros([2] if kind is V else [], dtype_of(kind))))


@cached
def same(shape):
    return computation(lambda value: value, shape)


@cached
def small(parameter, result):
    """Return a function whose results are from 1 to 5."""

    def leaf(number, kind, at):
        one = 1 + tf.math.floormod(number + at, 5)
        return tf.stack([one, one]) if kind is V else tf.cast(one, kind)

    return computation(lambda value: build(result, functools.partial(leaf, _folded(value, 0))), parameter)


@cached
def keys(parameter):
    """Return a function from a value to two keys below 3."""
    return computation(lambda value: tf.math.floormod(_folded(value, 0) + tf.constant([0, 1]), 3), parameter)


# --- parts of aggregates ---


@cached
def plus(shape):
    return computation(lambda one, other: _leaf_by_leaf(tf.add, shape, one, other), shape, shape)


@cached
def largest(shape):
    return computation(lambda one, other: _leaf_by_leaf(tf.maximum, shape, one, other), shape, shape)


@cached
def adding(state, value):
    """Return an accumulate that adds to each leaf of the state."""
    return computation(
        lambda so_far, one: _leaf_by_leaf(tf.add, state, so_far, _make(state, _folded(one, 0))), state, value
    )


@cached
def raising(state, value):
    """Return an accumulate that keeps the larger one for each leaf of the state."""
    return computation(
        lambda so_far, one: _leaf_by_leaf(tf.maximum, state, so_far, _make(state, _folded(one, 0))), state, value
    )


# --- sequences ---


@cached
def made(parameter, element, size):
    """Return a function from a value to a sequence that TensorFlow makes."""

    def function(value):
        number = _folded(value, 0)
        return tf.data.Dataset.range(size).map(
            lambda at: _make(element, tf.math.floormod(number + tf.cast(at, tf.int32), MODULUS))
        )

    return computation(function, parameter)


@cached
def reducing(element, state, constant):
    """Return a composition that reduces a sequence, from a literal zero."""
    step = fn((state, element), state, constant)
    zero = make_constant(state, constant)
    return tff.federated_computation(
        lambda sequence: tff.sequence_reduce(sequence, zero, step), tff.SequenceType(tff.types.to_type(element))
    )


@cached
def reduced(element, result, constant):
    """Return a TensorFlow function that reduces a sequence itself."""

    def function(sequence):
        return _make(result, sequence.reduce(tf.constant(constant), lambda state, one: _folded((state, one), 0)))

    return computation(function, tff.SequenceType(tff.types.to_type(element)))


# --- functions that return another value in each call ---


def _random():
    return tf.random.uniform([], 0, MODULUS, tf.int32)


DRAWS = {
    "random": _random,
    "function": lambda: tf.function(_random, autograph=False)(),
    "variable": lambda: tf.Variable(_random()).read_value(),
    "clock": lambda: tf.cast(tf.timestamp() * 1e6 % MODULUS, tf.int32),
}


@cached
def drawn(kind, shape):
    """Return a function without a parameter that draws a value."""
    if kind == "composed":
        first, last = drawn("random", (N, F)), fn((F, N), shape, 1)

        @tff.federated_computation
        def function():
            pair = first()
            return last(pair[1], pair[0])

        return function
    return computation(lambda: _make(shape, DRAWS[kind]()))


@cached
def noised(parameter, result):
    """Return a function that draws a value which depends on its argument, too."""
    return computation(lambda value: _make(result, tf.math.floormod(_folded(value, 0) + _random(), MODULUS)), parameter)
