"""Rings add and subtract as their integers do, and elements survive the wire."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import MaskingError
from fedbroker.masking.rings import Ring, ring_of

DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def integers(dtype):
    limits = np.iinfo(dtype)
    edges = st.sampled_from([limits.min, limits.max, 0, 1, limits.max // 2])
    numbers = st.lists(st.one_of(edges, st.integers(limits.min, limits.max)), min_size=1, max_size=20)
    return numbers.map(lambda found: np.array(found, dtype))


@st.composite
def pairs(draw):
    dtype = draw(st.sampled_from(DTYPES))
    first = draw(integers(dtype))
    second = np.resize(draw(integers(dtype)), first.shape)
    return dtype, first, second


@given(pairs())
def test_sum_has_the_bits_of_numpys_sum(pair):
    dtype, first, second = pair
    ring = ring_of(dtype)
    total = ring.elements(first)
    ring.add(total, ring.elements(second))
    with np.errstate(over="ignore"):
        assert ring.values(total, np.dtype(dtype)).tobytes() == (first + second).tobytes()
    ring.subtract(total, ring.elements(second))
    assert ring.values(total, np.dtype(dtype)).tobytes() == first.tobytes()


@given(pairs(), st.integers(1, (1 << 64) - 1))
def test_modular_sum_is_that_of_python(pair, modulus):
    dtype, first, second = pair
    ring = ring_of(dtype, modulus)
    total = ring.elements(first)
    assert total.tolist() == [int(value) % modulus for value in first]
    ring.add(total, ring.elements(second))
    assert total.tolist() == [(int(a) + int(b)) % modulus for a, b in zip(first, second, strict=True)]
    ring.subtract(total, ring.elements(second))
    assert total.tolist() == [int(value) % modulus for value in first]


@given(st.integers(1, 8), st.data())
def test_values_survive_a_narrow_ring_and_the_wire(width, data):
    ring = Ring(width)
    half = 1 << (8 * width - 1)
    values = np.array(data.draw(st.lists(st.integers(-half // 2, half // 2 - 1), min_size=1)), np.int64)
    packed = ring.pack(ring.elements(values))
    assert len(packed) == width * values.size
    total = ring.unpack(packed)
    assert ring.values(total, np.dtype(np.int64)).tolist() == values.tolist()
    ring.add(total, ring.unpack(packed))
    assert ring.values(total, np.dtype(np.int64)).tolist() == (2 * values).tolist()
    assert ring.unpack(ring.pack(total)).tolist() == ring.elements(2 * values).tolist()


@given(st.integers(1, 8), st.integers(0, 40), st.booleans())
def test_packed_elements_are_their_lowest_bytes(width, count, strided):
    ring = Ring(width)
    numbers = np.random.default_rng(count).integers(0, 1 << 63, 2 * count, np.uint64).astype(ring.carrier)
    elements = numbers[::2] if strided else numbers[:count]
    expected = b"".join(int(number).to_bytes(8, "little")[:width] for number in elements)
    assert ring.pack(elements) == expected
    assert ring.unpack(memoryview(expected)).tolist() == [int(one) & ((1 << 8 * width) - 1) for one in elements]


def test_elements_are_flat_and_own_their_memory():
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    elements = ring_of(np.int32).elements(values)
    elements += 1
    assert elements.shape == (6,)
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", ["float32", "complex64", "bool", "str"])
def test_other_values_than_integers_are_refused(dtype):
    with pytest.raises(MaskingError, match="cannot be masked"):
        ring_of(dtype)
    with pytest.raises(MaskingError, match="cannot be masked"):
        Ring(4).elements(np.zeros(1, dtype))


@pytest.mark.parametrize(("width", "modulus"), [(0, 0), (9, 0), (4, 7), (8, 1 << 64), (8, -1)])
def test_rings_that_do_not_exist_are_refused(width, modulus):
    with pytest.raises(MaskingError):
        Ring(width, modulus)


def test_damaged_elements_are_refused():
    with pytest.raises(MaskingError, match="are not elements of 3 bytes"):
        Ring(3).unpack(b"four")
    with pytest.raises(MaskingError, match="not below its modulus"):
        Ring(8, 5).unpack((5).to_bytes(8, "little"))
