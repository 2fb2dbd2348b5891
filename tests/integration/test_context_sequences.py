"""Sequences are read in the C++ runtime and equal the datasets that TFF would make of their graphs."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2
from tensorflow_federated.python.core.impl.executors import value_serialization

from fedbroker.context.values import sequences
from fedbroker.context.values.codec import read as deserialize
from fedbroker.context.values.codec import serialize
from fedbroker.context.values.sequences import has_sequences, read_sequences
from fedbroker.errors import ComputationFailed, WireError

pytestmark = pytest.mark.runtime

Pair = collections.namedtuple("Pair", ["x", "y"])


@pytest.fixture
def read(loop_thread, runtime):
    """Return a function that reads a serialized value's sequences in the C++ runtime."""

    async def found(value, type_):
        executor = await runtime.executor(0)
        try:
            return await read_sequences(value, type_, executor)
        finally:
            await executor.close()

    return lambda value, type_: loop_thread.run(found(value, type_))


def of(*tensors):
    return tf.data.Dataset.from_tensor_slices(*tensors)


def ragged():
    return tf.data.Dataset.range(4).map(lambda n: tf.fill([n, 2], tf.cast(n, tf.float32)))


DTYPES = (
    np.bool_,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.float16,
    np.float64,
)
DATASETS = {
    "numbers": tf.data.Dataset.range(5),
    "none": tf.data.Dataset.range(0),
    "vectors": of(np.arange(12, dtype=np.float32).reshape(4, 3)),
    "texts": of(np.array([b"a", b"", b"\xff\x00\x00", "ä".encode()], object)),
    "no texts": of(np.array([b"a"], object)).take(0),
    "tables of texts": of(np.array([[b"a", b"b"], [b"c\x00", b""]], object)),
    "of varying size": ragged(),
    "texts of varying number": tf.data.Dataset.range(4).map(lambda n: tf.fill([n], "x\0")),
    "batches": tf.data.Dataset.range(5).batch(2),
    "none of varying size": ragged().take(0),
    "of varying rank": of([2, 3]).map(lambda n: tf.ones(tf.fill([n], 2))),
    "pairs": of((np.arange(3), np.array([b"a", b"b", b"c"], object))),
    "names out of order": of(collections.OrderedDict(b=np.arange(3), a=np.arange(3.0))),
    "nested": of(collections.OrderedDict(b=(np.arange(3), np.arange(3.0)), a=collections.OrderedDict(c=np.arange(3)))),
    "single": of((np.arange(3),)),
    "named tuple": of(Pair(np.arange(3), np.arange(3.0))),
    "every dtype": of(tuple(np.array([0, 1]).astype(dtype) for dtype in DTYPES)),
    "halves": of(np.array([0.5, 1], np.float16)),
    "doubles": of(np.array([0.5, 1], np.float64)),
    "complex": of((np.array([1j, 2], np.complex64), np.array([1j, 2], np.complex128))),
    "bfloat16": of(tf.constant([1.5, 2.5], tf.bfloat16)),
    "through a function": tf.data.Dataset.range(6).filter(lambda n: n % 2 == 0).map(lambda n: n * n).cache(),
}


def listed(dataset):
    return [tf.nest.map_structure(lambda tensor: np.asarray(tensor.numpy()).tolist(), element) for element in dataset]


@pytest.mark.parametrize("name", DATASETS)
def test_sequence_equals_tffs_dataset(read, name):
    given = DATASETS[name]
    type_ = tff.SequenceType(tff.types.tensorflow_to_type(given.element_spec))
    serialized = serialize(given, type_)
    value = executor_pb2.Value.FromString(serialized)
    value.sequence.ClearField("element_type")  # as the C++ runtime returns it
    theirs, _ = value_serialization.deserialize_value(value, type_)
    ours = deserialize(read(serialized, type_), type_)
    assert isinstance(ours, tf.data.Dataset)
    assert listed(ours) == listed(theirs)
    assert ours.element_spec == theirs.element_spec
    again = serialize(ours, type_)  # as an argument of the next computation
    assert listed(deserialize(read(again, type_), type_)) == listed(theirs)


def test_sequences_nested_in_structs_are_read(read):
    numbers = tff.SequenceType(np.int64)
    member = tff.to_type(collections.OrderedDict(n=np.int32, all=(numbers, numbers), x=tff.TensorType(np.float32, [2])))
    type_ = tff.FederatedType(member, tff.CLIENTS)

    def client(n):
        both = (tf.data.Dataset.range(n), tf.data.Dataset.range(1, n))
        return collections.OrderedDict(n=n, all=both, x=np.array([n, n], np.float32))

    assert has_sequences(type_)
    assert not has_sequences(tff.to_type([np.int32]))
    found = deserialize(read(serialize([client(2), client(3)], type_), type_), type_)
    for n, one in zip((2, 3), found, strict=True):
        assert (one["n"], one["x"].tolist()) == (n, [n, n])
        assert [listed(dataset) for dataset in one["all"]] == [list(range(n)), list(range(1, n))]


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_sequence_longer_than_one_batch_is_read(read, monkeypatch, count):
    monkeypatch.setattr(sequences, "BATCH", 4)
    sequences._reader.cache_clear()
    try:
        type_ = tff.SequenceType(np.int64)
        whole = read(serialize(tf.data.Dataset.range(count), type_), type_)
        assert listed(deserialize(whole, type_)) == list(range(count))
    finally:
        sequences._reader.cache_clear()


def test_sequence_with_other_elements_than_its_type_is_refused(read):
    texts = tff.SequenceType(np.str_)
    with pytest.raises(ComputationFailed):
        read(serialize(of(["a"]), texts), tff.SequenceType(np.int64))


def test_endless_sequence_is_refused(read, monkeypatch):
    monkeypatch.setattr(sequences, "MOST_ELEMENTS", 1000)
    sequences._reader.cache_clear()
    try:
        type_ = tff.SequenceType(np.int64)
        whole = read(serialize(tf.data.Dataset.range(1000), type_), type_)
        assert len(listed(deserialize(whole, type_))) == 1000
        with pytest.raises(WireError, match="more than 1000 elements"):
            read(serialize(tf.data.Dataset.range(3).repeat(), type_), type_)
    finally:
        sequences._reader.cache_clear()


def test_value_that_is_no_sequence_is_refused(read):
    type_ = tff.SequenceType(np.int64)
    for value in (serialize(np.int64(1), tff.TensorType(np.int64)), b"", b"\x01"):
        with pytest.raises((WireError, ValueError)):
            read(value, type_)
