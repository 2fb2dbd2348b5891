"""A silo's outputs are accepted only if they have the types of their stage."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import given, settings
from tensorflow_federated.proto.v0 import array_pb2, data_type_pb2, executor_pb2
from tensorflow_federated.python.core.impl.types import type_serialization

from fedbroker.context.values.codec import federate, serialize, structure
from fedbroker.context.values.validation import check_reply, check_value
from fedbroker.errors import WireError
from fedbroker.runtime.values import framed
from tests.support.random_values import random_federated_values

NUMBER = tff.TensorType(np.float32)
VECTOR = tff.TensorType(np.float32, [3])
NUMBERS = tff.SequenceType(np.int64)
SUM = tff.FederatedType(NUMBER, tff.SERVER)


@settings(max_examples=300)
@given(random_federated_values())
def test_every_value_that_tff_writes_is_accepted(case):
    value, type_ = case
    clients = 1 if type_.all_equal else len(value)
    check_value(serialize(value, type_), type_, clients)


def at_server(member, type_=NUMBER):
    """Wrap a serialized value in a type at the server."""
    value = executor_pb2.Value()
    value.federated.type.CopyFrom(type_serialization.serialize_type(tff.FederatedType(type_, tff.SERVER)).federated)
    value.federated.value.add().CopyFrom(member)
    return value.SerializeToString()


def computation():
    @tff.tensorflow.computation
    def read():
        return tf.io.read_file("/etc/passwd")

    return executor_pb2.Value(computation=tff.framework.serialize_computation(read))


def sequence(dataset):
    value = executor_pb2.Value()
    value.ParseFromString(serialize(dataset, tff.SequenceType(np.int64)))
    return value


def numbers(*values, **fields):
    array = array_pb2.Array(dtype=data_type_pb2.DT_FLOAT, shape=array_pb2.ArrayShape(dim=[len(values)]), **fields)
    array.content = np.array(values, np.float32).tobytes()
    return executor_pb2.Value(array=array)


def struct(*elements):
    return executor_pb2.Value.FromString(b"".join(structure([one.SerializeToString() for one in elements])))


def one(value=1.0):
    return executor_pb2.Value.FromString(serialize(value, NUMBER))


def test_value_of_the_type_is_accepted():
    check_value(at_server(one()), SUM, 5)
    check_value(at_server(numbers(1, 2, 3), VECTOR), tff.FederatedType(VECTOR, tff.SERVER), 5)
    pair = tff.to_type([NUMBER, VECTOR])
    check_value(at_server(struct(one(), numbers(1, 2, 3)), pair), tff.FederatedType(pair, tff.SERVER), 5)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (computation(), NUMBER),
        (sequence(tf.data.Dataset.range(3)), NUMBER),
        (executor_pb2.Value(), NUMBER),
        (struct(one()), NUMBER),
        (one(), VECTOR),
        (numbers(1, 2), VECTOR),
        (numbers(1, 2, 3, float32_list=array_pb2.Array.FloatList(value=[1, 2, 3])), VECTOR),
        (numbers(1, 2, 3), tff.TensorType(np.int32, [3])),
        (numbers(1, 2, 3), tff.TensorType(np.float32, [None, None])),
        (struct(one()), tff.to_type([NUMBER, NUMBER])),
        (struct(one(), one(), one()), tff.to_type([NUMBER, NUMBER])),
        (struct(one(), computation()), tff.to_type([NUMBER, NUMBER])),
        (executor_pb2.Value(array=array_pb2.Array(dtype=1, shape=array_pb2.ArrayShape(unknown_rank=True))), VECTOR),
    ],
)
def test_value_of_another_type_is_refused(value, type_):
    with pytest.raises(WireError, match="not of the type"):
        check_value(at_server(value, NUMBER), tff.FederatedType(type_, tff.SERVER), 1)


@pytest.mark.parametrize("dims", [[0, 1 << 62], [1 << 31, 1 << 31, 0], [1] * 33])
def test_impossible_shape_is_refused(dims):
    type_ = tff.FederatedType(tff.TensorType(np.float32, [None] * len(dims)), tff.SERVER)
    array = array_pb2.Array(dtype=data_type_pb2.DT_FLOAT, shape=array_pb2.ArrayShape(dim=dims))
    array.content = bytes(4 * math.prod(dims))
    value = executor_pb2.Value(array=array).SerializeToString()
    with pytest.raises(WireError, match="in the shape"):
        check_value(federate([value], type_), type_, 1)


def test_repeated_or_misplaced_content_is_refused():
    type_ = tff.FederatedType(VECTOR, tff.SERVER)
    good = numbers(1, 2, 3).array.SerializeToString()
    content = b"".join(framed(18, [bytes(12)]))
    check_value(at_server(executor_pb2.Value.FromString(b"".join(framed(6, [good]))), VECTOR), type_, 1)
    head = at_server(executor_pb2.Value(), VECTOR)
    for array in (good + content, content + good, content):
        member = b"".join(framed(2, framed(6, [array])))
        value = b"".join(framed(5, [executor_pb2.Value.FromString(head).federated.SerializeToString()[:-2], member]))
        with pytest.raises(WireError):
            check_value(value, type_, 1)


def test_validation_reads_no_more_than_the_type_allows():
    flood = b"\x38\x01" * 1000  # an unknown number, repeatedly
    for inside in (flood, b"".join(framed(6, [flood])), b"".join(framed(3, [flood]))):
        value = b"".join(framed(5, framed(2, [inside])))
        for type_ in (NUMBER, VECTOR, tff.to_type([NUMBER])):
            with pytest.raises(WireError, match=r"more than|unknown way"):
                check_value(value, tff.FederatedType(type_, tff.SERVER), 1)
    with pytest.raises(WireError, match="more than"):
        check_value(b"".join(framed(5, [flood])), SUM, 1)


def test_each_client_must_have_exactly_one_value():
    type_ = tff.FederatedType(NUMBER, tff.CLIENTS)
    value = serialize([1.0, 2.0], type_)
    check_value(value, type_, 2)
    for clients in (0, 1, 3):
        with pytest.raises(WireError, match=r"2 values|more than"):
            check_value(value, type_, clients)


def test_sequence_without_side_effects_is_accepted():
    type_ = tff.FederatedType(NUMBERS, tff.SERVER)
    value = at_server(sequence(tf.data.Dataset.range(3)), NUMBERS)
    check_value(value, type_, 1)


def test_sequence_that_reads_a_file_is_refused(tmp_path):
    (tmp_path / "lines").write_text("1\n2\n")
    lines = tf.data.TextLineDataset([str(tmp_path / "lines")]).map(lambda line: tf.strings.to_number(line, tf.int64))
    with pytest.raises(WireError, match=r"TextLineDataset.*files"):
        check_value(at_server(sequence(lines), NUMBERS), tff.FederatedType(NUMBERS, tff.SERVER), 1)


def test_reply_must_have_the_outputs_of_its_stage():
    slots = [SimpleNamespace(type=SUM), SimpleNamespace(type=tff.FederatedType(NUMBER, tff.CLIENTS))]
    stage = SimpleNamespace(kept=(), masked=(), partials=slots[:1], returned=slots[1:])
    partial, returned = at_server(one()), serialize([1.0, 2.0], slots[1].type)
    check_reply(stage, [b"".join(structure([partial, returned]))], 2)
    for outputs in ([], [partial], [b"".join(structure([partial]))], [b"".join(structure([returned, partial]))]):
        with pytest.raises(WireError):
            check_reply(stage, outputs, 2)


def test_errors_are_one_line():
    with pytest.raises(WireError) as caught:
        check_value(at_server(computation()), SUM, 1)
    assert "\n" not in str(caught.value)
