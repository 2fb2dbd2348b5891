"""Partials that are masked: every integer tensor and struct is read as NumPy has it, large or small."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from fedbroker_worker.errors import WorkRefused
from fedbroker_worker.masking.tensors import elements_of, tensors_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedbroker.errors import MaskingError
from fedbroker.masking.rings import Ring
from fedbroker.runtime.protos import array_pb2, data_type_pb2, executor_pb2

DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TENSORS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
NESTED = st.recursive(TENSORS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


def array_of(tensor, *, packed):
    found = array_pb2.Array(dtype=data_type_pb2.DataType.Value(f"DT_{tensor.dtype.name.upper()}"))
    found.shape.dim.extend(tensor.shape)
    if packed:
        found.content = tensor.tobytes()
    else:
        getattr(found, f"{tensor.dtype.name}_list").value.extend(tensor.reshape(-1).tolist())
    return found


def fill(value, nested, packed):
    if isinstance(nested, list):
        value.struct.SetInParent()
        for at, inner in enumerate(nested):
            element = value.struct.element.add(name=f"e{at}" if at % 2 else "")
            fill(element.value, inner, packed)
    else:
        value.array.CopyFrom(array_of(nested, packed=packed))


def partial(nested, *, packed=True, placement="server"):
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = placement
    value.federated.type.all_equal = True
    fill(value.federated.value.add(), nested, packed)
    return value.SerializeToString()


def leaves(nested):
    return [leaf for inner in nested for leaf in leaves(inner)] if isinstance(nested, list) else [nested]


@given(NESTED, st.booleans())
def test_tensors_are_read_in_their_order(nested, packed):
    found = tensors_of(partial(nested, packed=packed))
    expected = leaves(nested)
    assert [(one.dtype, one.shape) for one in found] == [(one.dtype, one.shape) for one in expected]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@given(TENSORS)
def test_masks_are_added_to_a_copy(tensor):
    data = bytearray(partial(tensor))
    before = bytes(data)
    (found,) = tensors_of(data)
    elements = elements_of(Ring(tensor.dtype.itemsize), found)
    elements += 1
    assert bytes(data) == before


@given(TENSORS, st.integers(1, 8))
def test_narrow_rings_hold_the_values_that_they_can_tell_apart(tensor, width):
    ring = Ring(width)
    if width > tensor.dtype.itemsize:
        with pytest.raises(MaskingError, match=f"with {width} bytes for each number"):
            elements_of(ring, tensor)
        return
    bits = 8 * width
    low, high = (0, 2**bits) if tensor.dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if all(low <= number < high for number in tensor.reshape(-1).tolist()):
        found = ring.values(elements_of(ring, tensor), tensor.dtype)
        assert found.tolist() == tensor.reshape(-1).tolist()
    else:
        with pytest.raises(WorkRefused, match="outside of the range that the program states") as error:
            elements_of(ring, tensor)
        assert error.value.by_data


@given(TENSORS, st.integers(1, 2**64 - 1))
def test_modular_rings_hold_every_value(tensor, modulus):
    found = elements_of(Ring(8, modulus), tensor)
    assert found.tolist() == [number % modulus for number in tensor.reshape(-1).tolist()]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64"])
def test_other_dtypes_are_not_masked(dtype):
    found = array_pb2.Array(dtype={"float32": 1, "float64": 2, "bool": 10, "complex64": 8}[dtype])
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = "server"
    value.federated.value.add().array.CopyFrom(found)
    with pytest.raises(MaskingError, match="cannot be masked"):
        tensors_of(value.SerializeToString())


def test_values_of_single_clients_are_not_masked():
    with pytest.raises(MaskingError, match="is not an aggregate"):
        tensors_of(partial(np.int32(1).reshape(()), placement="clients"))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_partial(data):
    with pytest.raises(MaskingError):
        tensors_of(data)


@given(TENSORS, st.data())
def test_damaged_partials_raise_nothing_else(tensor, data):
    raw = bytearray(partial(tensor, packed=data.draw(st.booleans())))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MaskingError):
        tensors_of(bytes(raw))


def test_number_beyond_its_dtype():
    value = executor_pb2.Value.FromString(partial(np.array([1, 2], np.int8), packed=False))
    value.federated.value[0].array.int8_list.value[0] = 300
    with pytest.raises(MaskingError, match="beyond its dtype"):
        tensors_of(value.SerializeToString())
