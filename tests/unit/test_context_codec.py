"""The codec without copies equals TFF's own: byte for byte, value for value, error for error."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from google.protobuf import message
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_federated.proto.v0 import executor_pb2
from tensorflow_federated.python.core.impl.executors import value_serialization

from fedbroker.context.values.codec import read, write
from tests.support.random_values import random_federated_values, random_values


def same(one, other):
    """Return whether values and their types are equal."""
    if isinstance(one, tff.structure.Struct):
        assert isinstance(other, tff.structure.Struct)
        assert tff.structure.name_list_with_nones(one) == tff.structure.name_list_with_nones(other)
        one, other = list(one), list(other)
    if isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
        return
    assert type(one) is type(other)
    np.testing.assert_array_equal(one, other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.flags.writeable) == (other.dtype, other.shape, other.flags.writeable)


@settings(max_examples=400)
@given(random_values | random_federated_values())
def test_format_equals_tffs(case):
    value, type_ = case
    proto, _ = value_serialization.serialize_value(value, type_)
    expected = proto.SerializeToString(deterministic=True)
    written = b"".join(write(value, type_))
    assert written == expected
    theirs, _ = value_serialization.deserialize_value(executor_pb2.Value.FromString(expected), type_)
    same(read(written, type_), theirs)


@pytest.mark.parametrize("type_", [tff.SequenceType(np.int64), tff.TensorType(np.int64), tff.StructType([np.int64])])
def test_graph_of_a_sequence_is_never_read(type_):
    serialized = b"".join(write(tf.data.Dataset.range(3), tff.SequenceType(np.int64)))
    with pytest.raises(ValueError, match=r"not of the type|without its tensors"):
        read(serialized, type_)


def test_computation_is_serialized_by_tff():
    @tff.tensorflow.computation(np.int32)
    def one(x):
        return x + 1

    proto, _ = value_serialization.serialize_value(one, one.type_signature)
    assert b"".join(write(one, one.type_signature)) == proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (np.zeros(3, np.float32), tff.TensorType(np.float32, [4])),
        (np.zeros(3, np.float64), tff.TensorType(np.float32, [3])),
        (np.zeros(3, np.float32), tff.StructType([np.float32])),
        ((1.0,), tff.StructType([np.float32, np.float32])),
        (1.0, tff.FederatedType(np.float32, tff.CLIENTS)),
        ("text", tff.TensorType(np.float32)),
    ],
    ids=repr,
)
def test_mismatched_value_is_refused_as_by_tff(value, type_):
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as theirs:
        value_serialization.serialize_value(value, type_)
    with pytest.raises(theirs.type) as ours:
        write(value, type_)
    assert str(ours.value) == str(theirs.value)


def test_large_array_is_not_copied():
    model = np.arange(1 << 18, dtype=np.float32)
    type_ = tff.FederatedType(tff.TensorType(np.float32, [1 << 18]), tff.SERVER)
    parts = write(model, type_)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), model) for part in parts)
    data = b"".join(parts)
    assert np.shares_memory(read(data, type_), np.frombuffer(data, np.uint8))


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_a_value_or_a_clear_error(data, flip):
    type_ = tff.StructType([tff.TensorType(np.float32, [2]), tff.TensorType(np.int32)])
    good = b"".join(write((np.zeros(2, np.float32), 1), type_))
    for attempt in (data, good[:flip] + data + good[flip:]):
        with contextlib.suppress(TypeError, ValueError, NotImplementedError, message.DecodeError):
            read(attempt, type_)
