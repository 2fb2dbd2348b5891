"""Local epochs and shuffled rows at real silos: the same rows at each of them, which each orders by itself."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.program import SiloDataSource
from tests.support.local_tff import pack_arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DAYS = tff.SequenceType(collections.OrderedDict(days=tff.TensorType(np.float32, [None])))
ROW = tff.SequenceType(collections.OrderedDict(x=tff.TensorType(np.float32, [4])))


@tff.tensorflow.computation(DAYS)
def days_of(batches):
    return batches.reduce(tf.zeros([0]), lambda days, batch: tf.concat([days, batch["days"]], 0))


@tff.tensorflow.computation(ROW)
def numbers_of(rows):
    return rows.reduce(tf.zeros([0]), lambda numbers, row: tf.concat([numbers, row["x"][:1]], 0))


@tff.federated_computation(tff.FederatedType(DAYS, tff.CLIENTS))
def days(batches):
    return tff.federated_map(days_of, batches)


@tff.federated_computation(tff.FederatedType(ROW, tff.CLIENTS))
def numbers(rows):
    return tff.federated_map(numbers_of, rows)


@tff.federated_computation(tff.FederatedType(ROW, tff.CLIENTS))
def first_two(rows):
    first = tff.tensorflow.computation(
        lambda rows: tf.cast(rows.take(2).reduce(0.0, lambda sum, row: sum * 10 + row["x"][0]), tf.int32), ROW
    )
    return tff.federated_secure_sum(tff.federated_map(first, rows), 100)


def run(context, comp, handle) -> list[tuple[int, ...]]:
    """Return each client's rows in the order in which they came."""
    found = context.invoke(comp, pack_arguments(comp, (handle,)))
    return [tuple(map(int, rows)) for rows in found]


def test_epochs_and_limits_repeat_rows_in_order(ours):
    assert run(ours, numbers, fedbroker.data("rows", epochs=2, limit=4)) == [(0, 1, 2, 3) * 2] * 3


def test_each_silo_and_each_round_has_its_own_order(ours, silos):
    handle = fedbroker.data("rows", epochs=2, shuffle=True, seed=1)
    rounds = [run(ours, numbers, handle) for _ in range(3)]
    for orders in rounds:
        for order in orders:
            assert sorted(order[:6]) == sorted(order[6:]) == [*range(6)]
    assert len({order for orders in rounds for order in orders}) == 9
    assert run(ours, numbers, fedbroker.data("rows", epochs=2, shuffle=True, seed=1, round=1)) == rounds[1]
    with fedbroker.create_sync_execution_context(silos.url, cohort=silos.cohort, min_silos=3) as again:
        assert [run(again, numbers, handle) for _ in range(3)] == rounds


def test_without_a_seed_each_call_has_other_orders(ours):
    handle = fedbroker.data("rows", shuffle=True)
    assert len({tuple(run(ours, numbers, handle)) for _ in range(3)}) == 3


def test_clients_of_one_silo_have_their_own_orders(ours):
    found = run(ours, days, fedbroker.data("wards", batch_size=2, epochs=3, shuffle=True, seed=5))
    assert len(found) == 9
    for at, order in enumerate(found):
        expected = [] if at % 3 == 2 else [day for day in range(10) if day % 2 == at % 3]  # ward 2 is empty
        assert collections.Counter(order) == dict.fromkeys(expected, 3)
    halves = {tuple(day // 2 for day in order) for order in found if order}
    assert len(halves) == 6


def test_a_data_source_has_an_order_for_each_selection(ours):
    source = SiloDataSource("rows", ROW, shuffle=True, epochs=2, seed=3)
    iterator = source.iterator()
    first, second = (run(ours, numbers, iterator.select()) for _ in range(2))
    restored = type(iterator).from_bytes(iterator.to_bytes())
    third = run(ours, numbers, iterator.select())
    assert len({*first, *second, *third}) == 9
    assert run(ours, numbers, restored.select()) == third
    assert run(ours, numbers, source.iterator().select()) == first


def test_masked_sums_take_shuffled_rows(ours_masked):
    handle = fedbroker.data("rows", shuffle=True, seed=1)
    sums = [int(ours_masked.invoke(first_two, pack_arguments(first_two, (handle,)))) for _ in range(3)]
    assert len(set(sums)) > 1
    assert all(3 <= total <= 3 * 54 for total in sums)
