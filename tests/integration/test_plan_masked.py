"""Masked sums have the same bits as plaintext ones, and as NumPy's."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(600)]

Odict = collections.OrderedDict
N = np.int32
INTS = tff.FederatedType(N, tff.CLIENTS)


def test_sum_with_a_literal_bound(direct, masked):
    @tff.federated_computation(INTS)
    def summed(x):
        return tff.federated_secure_sum(x, 10), tff.federated_secure_sum_bitwidth(x, 4), tff.federated_sum(x)

    values = [1, 10, 3, 4]
    assert_same(masked(summed, values), direct(summed, values, secure_sum="plaintext"))


def test_modular_sum(direct, masked):
    @tff.federated_computation(INTS)
    def summed(x):
        return intrinsics.federated_secure_modular_sum(x, 7)

    assert_same(masked(summed, [1, 10, 3, 4]), N(4))
