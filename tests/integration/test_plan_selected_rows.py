"""Rows of ``federated_select`` keep each part under its name, in any order of names."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

F, N = np.float32, np.int32
Odict = collections.OrderedDict

ROWS = {
    "a number": lambda x: x,
    "a tuple": lambda x: (x, -x),
    "a sorted dict": lambda x: Odict(a=x, z=-x),
    "a dict": lambda x: Odict(z=x, a=-x),
    "dicts in a tuple": lambda x: (x * 2, Odict(z=x, a=-x)),
    "dicts in a dict": lambda x: Odict(z=Odict(y=x, b=(x * 2, x * 3)), a=-x),
}


def shape(make):
    return tff.types.to_type(tf.nest.map_structure(lambda _: F, make(0)))


def weigh(row, *factors):
    """Return a sum that tells which part has which name."""
    parts = iter(factors)

    def weighed(value):
        if isinstance(value, dict):
            return sum(weighed(value[name]) for name in sorted(value))
        if isinstance(value, (tuple, list)):
            return sum(weighed(part) for part in value)
        return value * next(parts)

    return weighed(row)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("secure", [False, True])
def test_rows_are_structs(direct, kind, secure):
    make = ROWS[kind]
    row = shape(make)
    select = tff.federated_secure_select if secure else tff.federated_select
    pick = tff.tensorflow.computation(lambda table, key: make(tf.gather(table, key)), (tff.TensorType(F, [3]), N))
    keys = tff.tensorflow.computation(lambda number: tf.stack([number, number + 1]), N)
    step = tff.tensorflow.computation(lambda state, one: state + weigh(one, 1.0, 10.0, 100.0, 1000.0), (F, row))
    inside = tff.tensorflow.computation(
        lambda rows: rows.reduce(0.0, lambda state, one: state + weigh(one, 1.0, 10.0, 100.0, 1000.0)),
        tff.SequenceType(row),
    )

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS), tff.FederatedType(tff.TensorType(F, [3]), tff.SERVER))
    def selected(first, table):
        largest = tff.federated_value(3, tff.SERVER)
        rows = select(tff.federated_map(keys, first), largest, table, pick)
        in_tff = tff.sequence_reduce(rows, tff.federated_value(0.0, tff.CLIENTS), step)
        return in_tff, tff.federated_map(inside, rows)

    table = np.array([1.0, 2.0, 4.0], F)
    expected = [F(sum(weigh(make(float(x)), 1.0, 10.0, 100.0, 1000.0) for x in table[at : at + 2])) for at in (0, 1)]
    found = direct(selected, [0, 1], table, secure_sum="plaintext")
    assert_same(found, (expected, expected))
