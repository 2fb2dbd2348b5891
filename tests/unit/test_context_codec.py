"""What is written and read without copies is TFF's own: byte for byte, value for value, error for error."""

from __future__ import annotations

import collections
import contextlib

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from google.protobuf import message
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow_federated.proto.v0 import executor_pb2
from tensorflow_federated.python.core.impl.executors import value_serialization

from fedbroker.context.codec import read, write

DTYPES = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128, ml_dtypes.bfloat16, np.str_),
)


@st.composite
def tensors(draw):
    """A value and its type: any dtype and shape, some of it unknown, the array in any memory layout."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if dtype is np.str_:
        value = np.full(shape, b"text\0", object)
    else:
        numbers = draw(hnp.arrays(np.int8, shape))
        value = numbers.astype(dtype)
    if value.ndim > 1 and draw(st.booleans()):
        value = np.asfortranarray(value)
    if value.ndim > 0 and draw(st.booleans()):
        value = value[::-1]
    if shape == () and draw(st.booleans()):
        value = value.item() if dtype is not ml_dtypes.bfloat16 else value[()]
    known = [size if draw(st.booleans()) else None for size in shape]
    return value, tff.TensorType(dtype, known)


def structs(inner):
    names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3).map(
            lambda some: (tuple(value for value, _ in some), tff.StructType([type_ for _, type_ in some]))
        ),
        st.tuples(names, st.lists(inner, min_size=3, max_size=3)).map(
            lambda both: (
                collections.OrderedDict((name, value) for name, (value, _) in zip(*both, strict=False)),
                tff.StructType([(name, type_) for name, (_, type_) in zip(*both, strict=False)]),
            )
        ),
    )


values = st.recursive(tensors(), structs, max_leaves=4)


@st.composite
def federated(draw):
    value, type_ = draw(values)
    placement = draw(st.sampled_from([tff.CLIENTS, tff.SERVER]))
    all_equal = placement is tff.SERVER or draw(st.booleans())
    members = value if all_equal else [value] * draw(st.integers(1, 3))
    return members, tff.FederatedType(type_, placement, all_equal=all_equal)


def same(one, other):
    """Equal values of equal kinds."""
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


@settings(max_examples=400, deadline=None)
@given(values | federated())
def test_it_is_tffs_own_format(case):
    value, type_ = case
    proto, _ = value_serialization.serialize_value(value, type_)
    expected = proto.SerializeToString(deterministic=True)
    written = b"".join(write(value, type_))
    assert written == expected
    theirs, _ = value_serialization.deserialize_value(executor_pb2.Value.FromString(expected), type_)
    same(read(written, type_), theirs)


def test_a_sequence_and_a_computation_go_through_tff():
    numbers = tff.SequenceType(np.int64)
    assert [int(one) for one in read(b"".join(write(tf.data.Dataset.range(3), numbers)), numbers)] == [0, 1, 2]

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
def test_what_does_not_fit_is_refused_as_tff_does(value, type_):
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as theirs:
        value_serialization.serialize_value(value, type_)
    with pytest.raises(theirs.type) as ours:
        write(value, type_)
    assert str(ours.value) == str(theirs.value)


def test_a_large_array_is_not_copied():
    model = np.arange(1 << 18, dtype=np.float32)
    type_ = tff.FederatedType(tff.TensorType(np.float32, [1 << 18]), tff.SERVER)
    parts = write(model, type_)
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), model) for part in parts)
    data = b"".join(parts)
    assert np.shares_memory(read(data, type_), np.frombuffer(data, np.uint8))


@given(st.binary(max_size=60), st.integers(0, 5))
def test_whatever_the_bytes_it_is_a_value_or_a_clear_error(data, flip):
    type_ = tff.StructType([tff.TensorType(np.float32, [2]), tff.TensorType(np.int32)])
    good = b"".join(write((np.zeros(2, np.float32), 1), type_))
    for attempt in (data, good[:flip] + data + good[flip:]):
        with contextlib.suppress(TypeError, ValueError, NotImplementedError, message.DecodeError):
            read(attempt, type_)
