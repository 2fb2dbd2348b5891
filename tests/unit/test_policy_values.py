"""Facts about serialized values from their outer frames, compared with protobuf's own reading."""

from __future__ import annotations

import pytest
from fedbroker_worker.policy import values
from fedbroker_worker.policy.values import holds_client_values, parts
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.graphs.reading import Unreadable
from fedbroker.runtime.protos import executor_pb2
from fedbroker.runtime.values import ELEMENT, ELEMENT_VALUE, STRUCT, framed

Value = executor_pb2.Value


def number(content=b"\0\0\0\0"):
    value = Value()
    value.array.dtype = 7
    value.array.content = content
    return value


def computation(name):
    value = Value()
    value.computation.reference.name = name
    return value


def sequence(graph):
    value = Value()
    value.sequence.serialized_graph_def = graph
    value.sequence.element_type.tensor.dtype = 7
    return value


def struct(*elements):
    value = Value()
    value.struct.SetInParent()
    for at, element in enumerate(elements):
        value.struct.element.add(name=f"e{at}" if at % 2 else "", value=element)
    return value


def federated(placement, *members):
    value = Value()
    value.federated.type.placement.value.uri = placement
    value.federated.type.all_equal = len(members) == 1
    value.federated.value.extend(members)
    return value


LEAVES = st.one_of(
    st.binary(max_size=8).map(number),
    st.text("abc", min_size=1, max_size=3).map(computation),
    st.binary(min_size=1, max_size=8).map(sequence),
)


def nested(inner):
    several = st.lists(inner, max_size=3)
    return st.one_of(
        several.map(lambda members: struct(*members)),
        st.tuples(st.sampled_from(["clients", "server"]), several).map(lambda one: federated(one[0], *one[1])),
    )


VALUES = st.recursive(LEAVES, nested, max_leaves=12)


def everything(value):
    """Return each value of a message, by protobuf's own reading."""
    yield value
    for element in value.struct.element:
        yield from everything(element.value)
    for member in value.federated.value:
        yield from everything(member)


@given(VALUES)
def test_every_computation_and_sequence_is_found(value):
    found = sorted((kind, bytes(content)) for kind, content in parts(value.SerializeToString()))
    there = list(everything(value))
    wanted = [("computation", one.computation.SerializeToString()) for one in there if one.HasField("computation")]
    wanted += [("graph", one.sequence.serialized_graph_def) for one in there if one.HasField("sequence")]
    assert found == sorted(wanted)


@given(VALUES)
def test_client_values_are_recognised_by_their_type(value):
    def holds(one):
        if one.HasField("federated"):
            return one.federated.type.placement.value.uri == "clients"
        return any(holds(element.value) for element in one.struct.element)

    assert holds_client_values(value.SerializeToString()) == holds(value)


def test_unknown_placement_counts_as_clients():
    assert holds_client_values(federated("elsewhere", number()).SerializeToString())
    assert not holds_client_values(federated("server", number()).SerializeToString())


ONE = number().SerializeToString()
TYPE = federated("server").federated.type.SerializeToString()


def joined(pieces):
    return b"".join(bytes(piece) for piece in pieces)


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        ONE + ONE,
        number().SerializeToString() + computation("x").SerializeToString(),
        joined(framed(9, [b"x"])),
        joined(framed(STRUCT, framed(7, [b"x"]))),
        joined(framed(STRUCT, framed(ELEMENT, [b""]))),
        joined(framed(STRUCT, framed(ELEMENT, [*framed(ELEMENT_VALUE, [ONE]), *framed(ELEMENT_VALUE, [ONE])]))),
        Value(sequence=Value.Sequence(zipped_saved_model=b"x")).SerializeToString(),
        ONE[:-1],
    ],
)
def test_ambiguous_bytes_are_unreadable(odd):
    with pytest.raises(Unreadable):
        list(parts(odd))


@pytest.mark.parametrize("types", [0, 2])
def test_federated_value_has_one_type(types):
    odd = joined(framed(5, framed(1, [TYPE]) * types))
    with pytest.raises(Unreadable):
        holds_client_values(odd)


def test_nesting_is_limited_as_in_protobuf():
    value = ONE
    for _ in range(values.MAX_DEPTH + 1):
        value = joined(framed(STRUCT, framed(ELEMENT, framed(ELEMENT_VALUE, [value]))))
    with pytest.raises(Unreadable, match="too deeply"):
        list(parts(value))


def test_width_of_values_is_limited(monkeypatch):
    monkeypatch.setattr(values, "MAX_FIELDS", 10)
    with pytest.raises(Unreadable, match="too wide"):
        list(parts(struct(*[number()] * 11).SerializeToString()))
    two = struct(struct(*[number()] * 6), struct(*[number()] * 6))
    with pytest.raises(Unreadable, match="too wide"):
        list(parts(two.SerializeToString()))
    assert list(parts(struct(*[number()] * 5).SerializeToString())) == []


@given(st.binary(max_size=100))
def test_random_bytes_are_read_or_refused(noise):
    for read in (lambda: list(parts(noise)), lambda: holds_client_values(noise)):
        try:
            read()
        except Unreadable:
            continue
