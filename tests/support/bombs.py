"""Harmful work for a silo or a runtime, as serialized values."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.runtime.protos import computation_pb2, executor_pb2
from fedbroker.runtime.values import framed, struct

TIB = 1 << 40
_COMPUTATION = executor_pb2.Value.DESCRIPTOR.fields_by_name["computation"].number
_LAMBDA = computation_pb2.Computation.DESCRIPTOR.fields_by_name["lambda"].number
_RESULT = computation_pb2.Lambda.DESCRIPTOR.fields_by_name["result"].number


def function(python, *types):
    """Return a TensorFlow computation as a serialized value."""
    comp = tff.tensorflow.computation(python, *types)
    return executor_pb2.Value(computation=tff.framework.serialize_computation(comp)).SerializeToString()


def allocates(size):
    """Return a graph that allocates and uses this many bytes at once."""
    return function(lambda: tf.reduce_sum(tf.fill([size // 4], 1.0)))


def doubles():
    """Return a graph that doubles its tensors without an end."""

    def build():
        shape = (tf.TensorShape([None]),)
        return tf.while_loop(lambda _: True, lambda x: (tf.concat([x, x], 0),), (tf.ones([1 << 20]),), shape)[0]

    return function(build)


def hoards():
    """Return a graph that allocates a little more in each step and keeps it, without an end."""

    def build():
        array = tf.TensorArray(tf.float32, size=0, dynamic_size=True, element_shape=[1 << 18], clear_after_read=False)

        def grow(i, array):
            return i + 1, array.write(i, tf.fill([1 << 18], tf.cast(i, tf.float32)))

        _, array = tf.while_loop(lambda i, _: i < 1 << 30, grow, (tf.constant(0), array))
        return tf.reduce_sum(array.stack())

    return function(build)


def endless():
    """Return a graph that never ends."""
    return function(lambda: tf.while_loop(lambda _: True, lambda y: (y + 1,), (tf.constant(1.0),))[0])


def one():
    """Return a graph that ends at once."""
    return function(lambda: tf.constant(np.float32(1)))


def calls_itself():
    """Return a function that, called with itself, never returns: the runtime overflows its stack."""
    comp = computation_pb2.Computation()
    outer = getattr(comp, "lambda")
    outer.parameter_name = "x"
    outer.result.call.function.reference.name = outer.result.call.argument.reference.name = "x"
    return executor_pb2.Value(computation=comp).SerializeToString()


def deep_value(levels):
    """Return a struct nested this many levels deep."""
    inner = b"".join(struct([]))
    for _ in range(levels):
        inner = b"".join(struct([(None, [inner])]))
    return inner


def deep_computation(levels):
    """Return a function that returns a function, and so on, this many levels deep."""
    comp = computation_pb2.Computation()
    comp.reference.name = "x"
    inner = comp.SerializeToString()
    for _ in range(levels):
        inner = b"".join(framed(_LAMBDA, [b"".join(framed(_RESULT, [inner]))]))
    return b"".join(framed(_COMPUTATION, [inner]))


def waits():
    """Return a graph that waits for ever without computing: for an element of a queue that stays empty."""
    return function(lambda: tf.queue.FIFOQueue(1, [tf.float32], [[]]).dequeue())
