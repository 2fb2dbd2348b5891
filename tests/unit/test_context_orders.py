"""Orders of rows: by seed and round, the same for all attempts, and only of silos that can shuffle."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.context.invocation import silo_columns
from fedbroker.context.orders import InvocationOrders, RoundCounter
from fedbroker.context.values.binding import bind_type
from fedbroker.errors import DataError
from fedbroker.plan import make_plan
from fedbroker.session.roster import Member
from fedbroker.wire.messages import SHUFFLE, Column, Source
from tests.support.local_tff import pack_arguments

ROWS = tff.SequenceType(collections.OrderedDict(x=np.float32))


@tff.federated_computation(tff.FederatedType(ROWS, tff.CLIENTS), tff.FederatedType(ROWS, tff.CLIENTS))
def both(one, two):
    count = tff.tensorflow.computation(lambda rows: rows.reduce(0, lambda n, _: n + 1), ROWS)
    return tff.federated_sum(tff.federated_map(count, one)), tff.federated_sum(tff.federated_map(count, two))


PLAN = make_plan(both)
SEEDED = fedbroker.data("rows", shuffle=True, seed=1)
OTHER = fedbroker.data("rows", shuffle=True, seed=2)
RANDOM = fedbroker.data("rows", shuffle=True)


def orders(counter, one, two=SEEDED):
    return InvocationOrders(counter, PLAN, pack_arguments(both, (one, two)))


def test_rounds_are_counted_for_each_handle():
    counter = RoundCounter()
    found = [orders(counter, OTHER).of(OTHER) for _ in range(3)]
    assert len(set(found)) == 3
    again = RoundCounter()
    assert [orders(again, OTHER).of(OTHER) for _ in range(3)] == found
    numbered = [fedbroker.data("rows", shuffle=True, seed=2, round=number) for number in range(3)]
    assert [orders(again, handle).of(handle) for handle in reversed(numbered)] == found[::-1]


def test_equal_handles_of_one_invocation_have_one_order_in_all_attempts():
    counter = RoundCounter()
    first = orders(counter, SEEDED)
    assert first.of(SEEDED) == first.of(SEEDED)
    assert list(first.recorded) == [repr(SEEDED)]
    assert orders(counter, SEEDED).of(SEEDED) != first.of(SEEDED)


def test_orders_without_seed_are_random_and_stay_within_an_invocation():
    counter = RoundCounter()
    first, second = orders(counter, RANDOM), orders(counter, RANDOM)
    assert first.of(RANDOM) == first.of(RANDOM) != second.of(RANDOM)


def test_invocations_have_their_orders_by_when_they_were_made():
    counter = RoundCounter()
    first, second = orders(counter, SEEDED), orders(counter, SEEDED)
    later = second.of(SEEDED)
    assert first.of(SEEDED) == orders(RoundCounter(), SEEDED).of(SEEDED) != later


def test_interrupted_session_keeps_its_orders():
    first = orders(RoundCounter(), RANDOM)
    second = orders(RoundCounter(), RANDOM)
    second.restore(first.recorded)
    assert second.recorded == first.recorded


def test_rows_in_their_own_order_need_none():
    plain = fedbroker.data("rows", epochs=5)
    assert orders(RoundCounter(), plain, plain).recorded == {}
    assert orders(RoundCounter(), plain, plain).of(plain) == ""


def test_argument_of_another_structure_is_left_to_its_reader():
    assert InvocationOrders(RoundCounter(), PLAN, None).recorded == {}
    assert InvocationOrders(RoundCounter(), PLAN, 7).recorded == {}


@pytest.mark.parametrize(("version", "named"), [("0.3.0", r" \(version 0.3.0\)"), ("", "")])
def test_silo_of_an_earlier_version_is_refused_in_one_line(version, named):
    sources = {"rows": Source((Column("x", "float32"),), rows=3)}
    binding = bind_type(SEEDED, ROWS)
    with pytest.raises(DataError, match=f"can shuffle rows, found one of an earlier version{named}; update") as caught:
        silo_columns(binding, SEEDED, Member("ewr", "1", sources, version, ("replay/1",)))
    assert "\n" not in str(caught.value)
    assert silo_columns(binding, SEEDED, Member("ewr", "1", sources, version, ("replay/1", SHUFFLE)))
    repeated = fedbroker.data("rows", epochs=5)
    assert silo_columns(bind_type(repeated, ROWS), repeated, Member("ewr", "1", sources, version, ("replay/1",)))
