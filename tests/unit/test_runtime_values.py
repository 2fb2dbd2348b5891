"""Frames made by hand equal those of the generated classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.runtime.protos import array_pb2, data_type_pb2, executor_pb2
from fedbroker.runtime.values import frame, unframe


def value(numbers: list[int]):
    array = array_pb2.Array(dtype=data_type_pb2.DT_INT32, shape=array_pb2.ArrayShape(dim=[len(numbers)]))
    array.int32_list.value.extend(numbers)
    return executor_pb2.Value(array=array)


lists = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=300)


@given(numbers=lists, identity=st.text(max_size=40))
def test_hand_made_frame_parses_as_the_same_request(numbers, identity):
    executor = executor_pb2.ExecutorId(id=identity)
    content = value(numbers).SerializeToString()
    number = executor_pb2.CreateValueRequest.DESCRIPTOR.fields_by_name["value"].number
    prefix = executor_pb2.CreateValueRequest(executor=executor).SerializeToString()
    request = executor_pb2.CreateValueRequest.FromString(prefix + frame(number, content) + content)
    assert request == executor_pb2.CreateValueRequest(value=value(numbers), executor=executor)


@given(numbers=lists)
def test_unframed_response_is_its_value(numbers):
    content = value(numbers).SerializeToString()
    number = executor_pb2.ComputeResponse.DESCRIPTOR.fields_by_name["value"].number
    response = executor_pb2.ComputeResponse(value=value(numbers)).SerializeToString()
    assert unframe(response, number) == content


def test_field_numbers_are_from_the_generated_descriptors():
    for message, expected in ((executor_pb2.CreateValueRequest, 1), (executor_pb2.ComputeResponse, 1)):
        assert message.DESCRIPTOR.fields_by_name["value"].number == expected


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_lengths_at_the_edges_of_varints(size):
    assert unframe(frame(1, bytes(size)) + bytes(size), 1) == bytes(size)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_framed(kind):
    assert frame(1, kind(b"abc")) == b"\x0a\x03"


def test_empty_response_is_an_empty_value():
    assert unframe(b"", 1) == b""


@pytest.mark.parametrize(
    "message",
    [b"\x12\x01x", b"\x0a\x02x", b"\x0a\x01xy", b"\x0a", b"\x0a\xff", b"\xff" * 11],
    ids=["other field", "too short", "something after", "no length", "half a length", "endless number"],
)
def test_unknown_layout_is_refused(message):
    with pytest.raises(ValueError, match="message of the C\\+\\+ runtime"):
        unframe(message, 1)
