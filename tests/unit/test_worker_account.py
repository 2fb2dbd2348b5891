"""A work item in words, from the bytes that came: what TFF compiles is recognised, hostile bytes do no harm."""

from __future__ import annotations

import pytest
from fedbroker_worker.journal.account import LONGEST_LINE, MOST_LINES, account_of
from fedbroker_worker.policy.rules import PolicySettings
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Call, Column, Compute, Data, Drop, Select, Source, Struct, Value
from tests.support.computations import sum_of
from tests.support.worker import call_ops, identity_computation

POLICY = PolicySettings(aggregates="recognised")


@pytest.fixture(scope="module")
def summing():
    """Return the sum over clients of the sums of a column, as a serialized value."""
    from tensorflow_federated.python.core.impl.computation.computation_impl import ConcreteComputation

    proto = ConcreteComputation.get_proto(sum_of)
    value = executor_pb2.Value()
    value.computation.ParseFromString(proto.SerializeToString())
    return value.SerializeToString()


def account(ops, *blobs, policy=POLICY, sources=None):
    return account_of(ops, {digest_of(blob): blob for blob in blobs}, policy, sources)


def test_sum_over_clients_is_recognised(summing):
    ops = [
        Data(1, "rows", (("#0", "float32"),)),
        Select(5, 1, 0),
        Value(2, digest_of(summing)),
        Call(3, 2, 1),
        Compute(3),
    ]
    lines = account(ops, summing, sources={"rows": Source((Column("delay", "float64"),))})
    assert lines[0] == "reads source 'rows': delay as float32; all rows of each client"
    assert any(line.startswith("calls a computation of ") and "@CLIENTS -> float32@SERVER" in line for line in lines)
    assert any("federated_sum" in line or "federated_aggregate" in line for line in lines)
    assert any("TensorFlow graph" in line and "Sum" in line for line in lines)


def test_values_of_single_clients_are_called_so():
    lines = account(call_ops(identity_computation()), identity_computation())
    assert lines[-2:] == ["sends 1 output to the coordinator", "  1: values of single clients"]


def test_stage_that_goes_on_with_earlier_values():
    lines = account([Compute(7), Drop((7,))])
    assert lines == [
        "goes on with 1 value of an earlier stage of the session",
        "sends 1 output to the coordinator",
        "  1: a value that is not known before it is computed",
    ]


def test_values_of_the_coordinator_are_counted():
    lines = account([Value(1, "a" * 32), Value(2, "b" * 32), Struct(3, (("", 1), ("", 2))), Compute(3)])
    assert lines[0] == "gets 2 values from the coordinator, which hold no data of this silo"
    assert lines[-1] == "  1: a value of the coordinator's own, 2 times"


def test_names_of_the_coordinator_are_one_short_line():
    hostile = "\x1b[31m<img src=x>\n" + "x" * 10_000
    lines = account([Data(1, hostile, ((hostile, hostile),))] * 3)
    assert all(line.isprintable() and len(line) <= LONGEST_LINE for line in lines)


def test_account_is_bounded():
    assert len(account([Data(n, "rows", ()) for n in range(10_000)])) == MOST_LINES + 1


@given(st.binary(max_size=300), st.integers(0, 200))
def test_arbitrary_bytes_have_an_account(raw, cut):
    for blob in (raw, identity_computation()[:cut] + raw):
        lines = account([Value(2, digest_of(blob)), Call(3, 2, None), Compute(3)], blob)
        assert all(line.isprintable() for line in lines)
