"""Rows that come several times, in another order, or not all: what the binder makes of a client's columns."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.context.values.binder import selected_rows
from fedbroker.context.values.data import data

SEEDS = st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2)


def sequence(rows: int, seed=(1, 2), **options) -> list[np.ndarray]:
    """Return the elements that ``rows`` rows become, each row its number; both columns must agree."""
    handle = data("rows", **options)
    numbers = tf.range(rows)
    batch = None if handle.batch_size is None else (handle.batch_size, handle.drop_remainder)
    seeds = [tf.constant(seed, tf.int64)] if handle.shuffle else []
    columns = [numbers, tf.stack([numbers, -numbers], axis=-1)]
    elements = list(selected_rows(columns, tuple, handle, batch, seeds).as_numpy_iterator())
    for one, two in elements:
        np.testing.assert_array_equal(np.stack([one, -one], axis=-1), two)
    return [one for one, _ in elements]


def flat(elements: list[np.ndarray]) -> list[int]:
    return [int(row) for element in elements for row in np.atleast_1d(element)]


@settings(max_examples=30)
@given(
    rows=st.integers(0, 40),
    epochs=st.integers(1, 4),
    limit=st.none() | st.integers(1, 50),
    batch=st.none() | st.integers(1, 9),
    drop=st.booleans(),
)
def test_rows_in_order_equal_those_of_tf_data(rows, epochs, limit, batch, drop):
    drop = drop and batch is not None
    expected = tf.data.Dataset.range(rows).take(-1 if limit is None else limit).repeat(epochs)
    if batch is not None:
        expected = expected.batch(batch, drop_remainder=drop)
    found = sequence(rows, epochs=epochs, limit=limit, batch_size=batch, drop_remainder=drop)
    theirs = list(expected.as_numpy_iterator())
    assert len(found) == len(theirs)
    for ours, other in zip(found, theirs, strict=True):
        np.testing.assert_array_equal(ours, other)


@settings(max_examples=15)
@given(
    rows=st.integers(0, 40),
    epochs=st.integers(1, 4),
    limit=st.none() | st.integers(1, 50),
    batch=st.none() | st.integers(1, 9),
    seed=SEEDS,
)
def test_each_shuffled_epoch_has_every_row_at_most_once(rows, epochs, limit, batch, seed):
    found = sequence(rows, seed, epochs=epochs, limit=limit, batch_size=batch, shuffle=True)
    each = rows if limit is None else min(rows, limit)
    order = flat(found)
    assert len(order) == epochs * each
    for epoch in range(epochs):
        part = order[epoch * each : (epoch + 1) * each]
        assert len(set(part)) == each
        assert set(part) <= set(range(rows))
    if limit is None:
        assert collections.Counter(order) == dict.fromkeys(range(rows), epochs)
    if batch is not None and order:
        assert [len(element) for element in found[:-1]] == [batch] * (len(found) - 1)
    again = sequence(rows, seed, epochs=epochs, limit=limit, batch_size=batch, shuffle=True)
    assert flat(again) == order


def test_drop_remainder_leaves_out_the_last_rows_of_the_last_epoch():
    found = sequence(10, epochs=3, batch_size=4, drop_remainder=True, shuffle=True)
    assert [len(element) for element in found] == [4] * 7
    assert max(collections.Counter(flat(found)).values()) == 3


def test_epochs_and_seeds_have_orders_of_their_own():
    order = flat(sequence(50, epochs=3, shuffle=True))
    other = flat(sequence(50, (1, 3), epochs=3, shuffle=True))
    orders = {tuple(one[at : at + 50]) for one in (order, other) for at in (0, 50, 100)}
    assert len(orders) == 6
    assert tuple(range(50)) not in orders


def test_each_row_comes_at_each_position_about_equally_often():
    places = np.zeros((5, 5))
    for seed in range(3):
        for epoch in np.reshape(flat(sequence(5, (seed, -seed), epochs=400, shuffle=True, batch_size=2000)), (400, 5)):
            places[np.arange(5), epoch] += 1
    # 240 are expected in each place, with a standard deviation of 14.
    assert places.min() > 170
    assert places.max() < 310


def test_a_sample_of_rows_differs_from_epoch_to_epoch():
    order = flat(sequence(1000, limit=10, epochs=20, shuffle=True))
    assert len(set(order)) > 100


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows_can_be_shuffled(rows):
    assert sorted(flat(sequence(rows, shuffle=True, epochs=2))) == sorted([*range(rows)] * 2)
