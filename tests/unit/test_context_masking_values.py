"""The coordinator's values of masked sums: rings, totals of the sums' types, and the content of a stage's work."""

from __future__ import annotations

import collections

import blake3
import numpy as np
import pytest
import tensorflow_federated as tff
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.context.values.codec import read, serialize
from fedbroker.context.values.masking import read_total, read_totals, rings_of
from fedbroker.errors import UsageError, WireError
from fedbroker.masking.rings import Ring
from fedbroker.masking.work import contents_of
from fedbroker.plan.model import MaskedSum, MaskedTensor, Slot
from fedbroker.wire.blobs import content_digest, digest_of
from tests.support.local_tff import assert_same

Odict = collections.OrderedDict
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def masked_sum(type_, *tensors, name="v0", moduli=None):
    kind = tff.types.to_type(type_)
    return MaskedSum(
        Slot(f"{name}_partial", tff.FederatedType(kind, tff.SERVER)), Slot(f"{name}_total", kind), tensors, moduli
    )


INT = masked_sum(np.int32, MaskedTensor("int32", 10))


# --- rings ---


@given(
    dtype=st.sampled_from(DTYPES),
    largest=st.integers(0, (1 << 63) - 1),
    clients=st.lists(st.integers(0, 40), min_size=3, max_size=9),
)
def test_rings_hold_the_sums_of_values_within_the_bound(dtype, largest, clients):
    limits = np.iinfo(dtype)
    (ring,) = rings_of(masked_sum(np.dtype(dtype).type, MaskedTensor(dtype, largest)), sum(clients), {})
    assert ring.width <= np.dtype(dtype).itemsize
    for bound in (min(largest, limits.max), max(-largest, limits.min)):
        partials = [np.array([bound * count % (1 << 64)], np.uint64).astype(dtype) for count in clients]
        total = ring.elements(np.zeros(1, dtype))
        for partial in partials:
            ring.add(total, ring.unpack(ring.pack(ring.elements(partial))))
        exact = np.array([bound * sum(clients) % (1 << 64)], np.uint64).astype(dtype)
        assert ring.values(total, np.dtype(dtype)) == exact


def test_rings_of_moduli():
    stated = masked_sum([np.int32, np.int8], MaskedTensor("int32", modulus=9), MaskedTensor("int8", modulus=5))
    assert rings_of(stated, 3, {}) == (Ring(8, 9), Ring(8, 5))


@pytest.mark.parametrize(
    ("type_", "moduli", "expected"),
    [
        (np.int32, (np.int64, np.int64(9)), [9]),
        (np.int32, (tff.TensorType(np.int32, [1]), np.array([9], np.int32)), [9]),
        (Odict(b=np.int32, a=(np.int8, np.uint64)), (np.uint8, np.uint8(9)), [9, 9, 9]),
        (
            Odict(b=np.int32, a=(np.int8, np.uint64)),
            (Odict(b=np.int16, a=(np.int16, np.uint64)), Odict(b=3, a=(4, np.uint64((1 << 64) - 1)))),
            [3, 4, (1 << 64) - 1],
        ),
        (Odict(b=np.int32, a=(np.int8, np.uint64)), (Odict(b=np.int16, a=np.int16), Odict(b=3, a=4)), [3, 4, 4]),
        (tff.StructType([]), (tff.StructType([]), ()), []),
    ],
)
def test_rings_of_moduli_that_are_computed(type_, moduli, expected):
    kind, value = moduli
    slot = Slot("v0_modulus", tff.types.to_type(kind))
    tensors = [MaskedTensor(np.dtype(one.dtype.type).name) for one in tff.structure.flatten(tff.types.to_type(type_))]
    one = masked_sum(type_, *tensors, moduli=slot)
    values = {"v0_modulus": serialize(value, slot.type)}
    assert [ring.modulus for ring in rings_of(one, 3, values)] == expected


@pytest.mark.parametrize("modulus", [0, -1, 128, 1 << 40])
def test_moduli_must_fit_the_dtype(modulus):
    slot = Slot("v0_modulus", tff.TensorType(np.int64))
    one = masked_sum(np.int8, MaskedTensor("int8"), moduli=slot)
    with pytest.raises(UsageError, match=f"is {modulus}; use a modulus from 1 to 127"):
        rings_of(one, 3, {"v0_modulus": serialize(np.int64(modulus), slot.type)})


# --- totals ---


STRUCT = Odict(b=np.int32, a=(tff.TensorType(np.int64, [2]), tff.TensorType(np.uint8, [None, 2])))
TENSORS = (MaskedTensor("int32", 9), MaskedTensor("int64"), MaskedTensor("uint8", 3))


def test_totals_have_the_types_of_their_sums():
    struct, modular = masked_sum(STRUCT, *TENSORS), masked_sum(np.int16, MaskedTensor("int16", modulus=300), name="v1")
    arrays = [
        np.array([-7], "i4"),
        np.array([1, -(1 << 62)], "i8"),
        np.array([1, 2, 3, 4, 5, 6], "u1"),
        np.array([299], "i2"),
    ]
    rings = [*rings_of(struct, 5, {}), *rings_of(modular, 5, {})]
    assert [ring.width for ring in rings] == [1, 8, 1, 8]
    total = [(ring, ring.elements(array)) for ring, array in zip(rings, arrays, strict=True)]
    found = read_totals([struct, modular], [(), (2,), (3, 2), ()], total)
    summed = read(found["v0_total"], struct.total.type)
    assert tff.structure.name_list(summed) == ["b", "a"]
    assert_same(tff.structure.flatten(summed), [np.int32(-7), arrays[1], arrays[2].reshape(3, 2)])
    assert_same(read(found["v1_total"], modular.total.type), np.int16(299))


def test_total_of_no_tensors():
    empty = masked_sum(tff.StructType([]))
    assert read(read_totals([empty], [], [])["v0_total"], empty.total.type) == tff.structure.Struct([])


@pytest.mark.parametrize(
    ("type_", "shape", "array"),
    [
        (np.int32, (1,), np.zeros(1, "i4")),
        (np.int32, (), np.zeros(2, "i4")),
        (np.int32, (), np.zeros(1, "i8")),
        (tff.TensorType(np.int32, [2, None]), (3, 2), np.zeros(6, "i4")),
        (tff.TensorType(np.int32, [2, None]), (2,), np.zeros(2, "i4")),
        (tff.TensorType(np.int32, [None]), (1 << 62,), np.zeros(2, "i4")),
    ],
)
def test_other_shapes_are_refused(type_, shape, array):
    with pytest.raises(WireError, match="is not of the type"):
        read_total(masked_sum(type_, MaskedTensor("int32")), [shape], [array])


def test_other_numbers_of_tensors_are_refused():
    total = [(Ring(4), np.zeros(1, "<u4"))]
    with pytest.raises(WireError, match="1 masked tensors, and not 2"):
        read_totals([INT, INT], [()], total)
    with pytest.raises(WireError, match="0 tensors, and not 1"):
        read_total(INT, [()], [])


# --- work ---


def test_contents_of_work_are_full_digests_of_what_all_silos_get():
    clients = serialize([np.int32(1)], tff.FederatedType(np.int32, tff.CLIENTS))
    shared = serialize(np.int32(1), tff.FederatedType(np.int32, tff.CLIENTS, all_equal=True))
    blobs = {digest_of(one): one for one in (clients, shared)}
    assert contents_of(blobs) == {digest_of(clients): None, digest_of(shared): blake3.blake3(shared).digest()}
    assert content_digest(shared).hex().startswith(digest_of(shared))
