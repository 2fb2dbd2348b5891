"""Modular sums of any integer dtype take one modulus, or one for each value."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(600)]

Odict = collections.OrderedDict

VALUES = {
    "int32": np.int32(5),
    "int64": np.int64(5),
    "int8 vector": np.array([1, 5], np.int8),
    "tuple": (np.int64(5), np.array([2, 3], np.int32)),
    "dict": Odict(z=np.int16(5), a=(np.int64(6), np.int32(4))),
}


def modular(value, modulus):
    """Return three times a value modulo a number, leaf by leaf."""
    if isinstance(value, dict):
        return Odict((name, modular(part, modulus)) for name, part in value.items())
    if isinstance(value, tuple):
        return tuple(modular(part, modulus) for part in value)
    return (value * 3 % modulus).astype(value.dtype)


def type_of(value):
    if isinstance(value, dict):
        return Odict((name, type_of(part)) for name, part in value.items())
    if isinstance(value, tuple):
        return tuple(type_of(part) for part in value)
    return tff.TensorType(value.dtype, value.shape)


@pytest.mark.parametrize("kind", VALUES)
def test_one_modulus_is_for_all_values(direct, kind):
    value = VALUES[kind]

    @tff.federated_computation(tff.FederatedType(tff.types.to_type(type_of(value)), tff.CLIENTS))
    def summed(values):
        return intrinsics.federated_secure_modular_sum(values, 7)

    assert_same(direct(summed, [value] * 3, secure_sum="plaintext"), modular(value, 7))


def test_each_value_may_have_a_modulus(direct):
    value = Odict(z=np.int64(5), a=np.int16(4))

    @tff.federated_computation(tff.FederatedType(tff.types.to_type(type_of(value)), tff.CLIENTS))
    def summed(values):
        return intrinsics.federated_secure_modular_sum(values, Odict(z=7, a=5))

    found = direct(summed, [value] * 3, secure_sum="plaintext")
    assert_same(found, Odict(z=np.int64(1), a=np.int16(2)))
