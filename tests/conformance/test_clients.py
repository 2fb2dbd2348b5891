"""N clients over M silos: the results equal those of TFF's local context with N clients."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import UsageError
from tests.support import computations as c
from tests.support.conformance import feature
from tests.support.local_tff import assert_same, pack_arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F = np.float32
DAYS = tff.SequenceType(collections.OrderedDict(days=F))
WARDS = [[0.0, 2.0, 4.0, 6.0, 8.0], [1.0, 3.0, 5.0, 7.0, 9.0], []]  # the rows of one silo, as in conftest.py


@tff.federated_computation(c.AT_CLIENTS, c.AT_SERVER)
def stats(x, s):
    """Return order-independent sums of whole numbers, the number of clients, and every client's value."""
    one = tff.federated_value(1, tff.CLIENTS)
    moved = tff.federated_map(c.minus, (x, tff.federated_broadcast(s)))
    return tff.federated_sum(x), tff.federated_sum(one), tff.federated_max(x), moved, tff.federated_sum(moved)


@feature("clients", "fewer clients than silos, one each, more", "dealt in blocks, in the order of the list")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20])
def test_numbers_of_clients(same, count):
    found = same(stats, [float(n * n) for n in range(count)], 1.0)
    assert found[1] == count


@feature("clients", "no clients at all", "aggregates are their zeros")
def test_no_clients(same):
    counted = tff.federated_computation(
        lambda x: (tff.federated_sum(x), tff.federated_sum(tff.federated_value(1, tff.CLIENTS)), tff.federated_mean(x)),
        c.AT_CLIENTS,
    )
    assert same(counted, [])[:2] == (0.0, 0)


@feature("clients", "means over more clients than silos")
def test_means(same):
    @tff.federated_computation(c.AT_CLIENTS, c.AT_CLIENTS)
    def means(x, w):
        return tff.federated_mean(x), tff.federated_mean(x, w)

    values = np.random.default_rng(1).normal(size=11).astype(F)
    same(means, list(values), list(np.abs(values)), rtol=1e-5)


def through_each_client(ds):
    return ds.reduce(np.float32(0), lambda total, row: total + row["days"])


@tff.federated_computation(tff.FederatedType(DAYS, tff.CLIENTS))
def stays(data):
    total = tff.federated_map(tff.tensorflow.computation(through_each_client, DAYS), data)
    one = tff.federated_value(1, tff.CLIENTS)
    return tff.federated_sum(total), tff.federated_sum(one), total


@feature("clients", "several clients inside one silo's data", "`clients` of a data source; one of them without rows")
def test_several_clients_in_one_silo(same):
    found = same.run_ours(stays, fedbroker.data("wards"))
    datasets = [
        tf.data.Dataset.from_tensor_slices(collections.OrderedDict(days=np.array(rows, F))) for rows in WARDS * 3
    ]
    assert_same(found, same.run_theirs(stays, datasets))
    assert found[1] == 9


@feature("clients", "silos' data together with a list of one value for each of its clients")
def test_data_together_with_lists(same):
    @tff.federated_computation(tff.FederatedType(DAYS, tff.CLIENTS), c.AT_CLIENTS)
    def shifted(data, shift):
        total = tff.federated_map(tff.tensorflow.computation(through_each_client, DAYS), data)
        return tff.federated_map(c.minus, (total, shift))

    shifts = [float(n) for n in range(9)]
    assert same.run_ours(shifted, fedbroker.data("wards"), shifts) == [
        total - shift for total, shift in zip([20.0, 25.0, 0.0] * 3, shifts, strict=True)
    ]


@feature("clients", "no clients-placed argument", "one client at each silo, or `default_num_clients`")
def test_number_of_clients_without_arguments(same, silos):
    @tff.federated_computation
    def count():
        return tff.federated_sum(tff.federated_value(1, tff.CLIENTS))

    assert same.run_ours(count) == 3
    for clients in (0, 5):
        with fedbroker.create_sync_execution_context(
            silos.url, cohort=silos.cohort, min_silos=3, options=fedbroker.Options(default_num_clients=clients)
        ) as context:
            assert context.invoke(count, None) == clients


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_lists_of_different_lengths_are_refused_as_by_tff(ours, kind):
    with pytest.raises(kind, match="lists of 1, 2 client values"):
        ours.invoke(tff.federated_computation(lambda x, y: (x, y), c.AT_CLIENTS, c.AT_CLIENTS), _two([1.0], [1.0, 2.0]))


def test_list_with_another_length_than_the_data_is_refused(ours):
    comp = tff.federated_computation(lambda x, y: (x, y), tff.FederatedType(DAYS, tff.CLIENTS), c.AT_CLIENTS)
    with pytest.raises(UsageError, match="2 client values was given together with data of 9 clients"):
        ours.invoke(comp, pack_arguments(comp, (fedbroker.data("wards"), [1.0, 2.0])))


def _two(x, y):
    return tff.structure.Struct([(None, x), (None, y)])
