"""Secure sums: masked, computed in plaintext or refused, with TFF's range checks."""

from __future__ import annotations

import collections

import grpc
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from fedbroker.errors import PlanError, SiloError
from tests.support.conformance import feature

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

N = np.int32
INTS = tff.FederatedType(N, tff.CLIENTS)
VECTORS = tff.FederatedType(collections.OrderedDict(a=N, b=tff.TensorType(np.int64, [2])), tff.CLIENTS)


@tff.federated_computation(INTS)
def secure_sum(x):
    return tff.federated_secure_sum(x, 10)


@tff.federated_computation(INTS)
def secure_sum_bitwidth(x):
    return tff.federated_secure_sum_bitwidth(x, 4)


@tff.federated_computation(INTS)
def secure_modular_sum(x):
    return intrinsics.federated_secure_modular_sum(x, 7)


@feature(
    "secure",
    "federated_secure_sum",
    "masked, or in plaintext; too large a value fails, as in TFF",
)
def test_secure_sum(same_secure):
    assert same_secure(secure_sum, [1, 10, 3, 4]) == 18
    for run, kind in ((same_secure.run_ours, SiloError), (same_secure.run_theirs, grpc.RpcError)):
        with pytest.raises(kind, match="client value larger than maximum"):
            run(secure_sum, [1, 11, 2])


@feature("secure", "federated_secure_sum of structs, with a bound for each part")
def test_secure_sum_of_structs(same_secure):
    @tff.federated_computation(VECTORS)
    def bounded(x):
        return tff.federated_secure_sum(x, collections.OrderedDict(a=5, b=9))

    value = collections.OrderedDict(a=5, b=np.array([1, 9], np.int64))
    same_secure(bounded, [value] * 4)


@feature(
    "secure",
    "federated_secure_sum_bitwidth",
    "masked, or in plaintext; a wider value than allowed fails",
)
def test_secure_sum_bitwidth(same_secure):
    assert same_secure(secure_sum_bitwidth, [15, 0, 1]) == 16
    for run, kind in ((same_secure.run_ours, SiloError), (same_secure.run_theirs, grpc.RpcError)):
        with pytest.raises(kind, match="client value larger than maximum"):
            run(secure_sum_bitwidth, [16, 0, 1])


@feature("secure", "secure modular sum", "masked, or in plaintext")
def test_secure_modular_sum(same_secure):
    assert same_secure(secure_modular_sum, [5, 5, 5]) == 1


@feature("secure", "federated_secure_select", "in every mode: each silo selects by itself")
def test_secure_select(same_secure):
    values = tff.TensorType(np.float32, [4])
    pick = tff.tensorflow.computation(lambda v, key: tf.gather(v, key), (values, N))
    total = tff.tensorflow.computation(
        lambda ds: ds.reduce(np.float32(0), lambda a, b: a + b), tff.SequenceType(np.float32)
    )

    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(N, [2]), tff.CLIENTS),
        tff.FederatedType(N, tff.SERVER),
        tff.FederatedType(values, tff.SERVER),
    )
    def select(keys, max_key, value):
        chosen = tff.federated_secure_select(keys, max_key, value, pick)
        return tff.federated_sum(tff.federated_map(total, chosen))

    assert same_secure(select, [[0, 1], [3, 3]], 4, np.arange(4, dtype=np.float32)) == 7.0


@pytest.mark.parametrize("comp", [secure_sum, secure_sum_bitwidth, secure_modular_sum])
def test_secure_sums_are_never_computed_in_plaintext_by_default(ours, comp):
    with pytest.raises(PlanError, match="the coordinator would see each silo's sum") as caught:
        ours.invoke(comp, [1, 2])
    assert caught.value.intrinsic == (caught.value.what.split()[0])
    assert 'secure_sum="plaintext"' in caught.value.hint


@feature("refused", "secure sums, without keys", "by default; see Secure sums")
def test_secure_sums_are_refused_by_default(same):
    same.refuses(PlanError, "federated_secure_sum cannot be planned", secure_sum, [1, 2])


def test_each_plaintext_session_logs_a_warning(ours_in_plaintext, caplog):
    for _ in range(2):
        ours_in_plaintext.invoke(secure_sum, [1, 2])
    warned = [record.message for record in caplog.records if "secure_sums_in_plaintext" in record.message]
    assert len(warned) == 2
    assert all("federated_secure_sum" in line and "session=" in line for line in warned)
