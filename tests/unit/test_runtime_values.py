"""Frames made by hand equal those of the generated classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.runtime.protos import array_pb2, computation_pb2, data_type_pb2, executor_pb2
from fedbroker.runtime.values import FEDERATED, FEDERATED_TYPE, frame, is_dealt, unframe


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


def federated(*members, placement="clients", all_equal=False):
    type_ = computation_pb2.FederatedType(all_equal=all_equal)
    type_.placement.value.uri = placement
    return executor_pb2.Value(federated=executor_pb2.Value.Federated(type=type_, value=members))


def struct_of(*values):
    elements = [executor_pb2.Value.Struct.Element(value=one) for one in values]
    return executor_pb2.Value(struct=executor_pb2.Value.Struct(element=elements))


FUNCTION = executor_pb2.Value(computation=computation_pb2.Computation())
SEQUENCE = executor_pb2.Value(sequence=executor_pb2.Value.Sequence(serialized_graph_def=b"graph"))


@pytest.mark.parametrize(
    "members",
    [(), (value([1]), value([2])), (struct_of(value([1]), struct_of(value([2]), SEQUENCE)), struct_of()), (SEQUENCE,)],
    ids=["no client", "arrays", "structs", "sequence"],
)
def test_data_of_single_clients_are_dealt(members):
    assert is_dealt(federated(*members).SerializeToString())


@pytest.mark.parametrize(
    "other",
    [
        value([1]),
        struct_of(value([1])),
        FUNCTION,
        federated(value([1]), all_equal=True),
        federated(value([1]), placement="server"),
        federated(value([1]), placement=""),
        federated(value([1]), FUNCTION),
        federated(struct_of(value([1]), struct_of(FUNCTION))),
        federated(federated(value([1]))),
    ],
    ids=["array", "struct", "computation", "all equal", "server", "nowhere", "functions", "inner function", "nested"],
)
def test_other_values_are_not_dealt(other):
    assert not is_dealt(other.SerializeToString())


def test_value_that_two_readers_could_read_differently_is_not_dealt():
    dealt = federated(value([1])).SerializeToString()
    assert not is_dealt(dealt + FUNCTION.SerializeToString())  # the last field counts
    assert not is_dealt(dealt + dealt)
    inner = federated(value([1])).federated.SerializeToString()
    second = computation_pb2.FederatedType(all_equal=True).SerializeToString()
    twice = inner + frame(FEDERATED_TYPE, second) + second
    assert not is_dealt(frame(FEDERATED, twice) + twice)
    assert not is_dealt(dealt[:-1])
    assert not is_dealt(b"")


@given(st.binary(max_size=60))
def test_any_bytes_are_dealt_or_not(data):
    assert is_dealt(data) in (True, False)
    framed = frame(FEDERATED, data) + data
    assert is_dealt(framed) in (True, False)
