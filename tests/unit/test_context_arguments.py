"""A call's argument, leaf by leaf, and the distribution of clients over silos."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.context.invocation import split_clients
from fedbroker.context.values.arguments import ClientValues, SharedValue, client_count, read_arguments
from fedbroker.context.values.codec import read as deserialize
from fedbroker.context.values.data import data
from fedbroker.errors import UsageError
from fedbroker.plan import make_plan
from tests.support import computations as c
from tests.support.local_tff import pack_arguments


def read(comp, *args):
    return read_arguments(make_plan(comp), pack_arguments(comp, args))


def test_lists_values_and_handles_are_distinguished():
    arguments = read(c.two_barriers, [1.0, 2.0], 3.0)
    assert arguments["arg_0"] == ClientValues([1.0, 2.0])
    server = arguments["arg_1"]
    assert isinstance(server, SharedValue)
    assert deserialize(server.value, c.AT_SERVER) == np.float32(3)
    assert read(c.total, data("delays"))["arg"] == data("delays")


def test_computation_without_parameter_takes_no_argument():
    @tff.federated_computation
    def nothing():
        return tff.federated_value(1, tff.SERVER)

    assert read_arguments(make_plan(nothing), None) == {}


def test_single_value_in_place_of_a_list_is_refused():
    with pytest.raises(UsageError, match="one value for each client"):
        read(c.total, 1.0)


def test_data_handle_is_refused_for_server_values():
    with pytest.raises(UsageError, match=r"tff\.CLIENTS"):
        read(c.server_only, data("delays"))


def test_usage_errors_are_type_errors_too():
    with pytest.raises(TypeError):
        read(c.total, 1.0)


def test_lists_must_have_the_same_number_of_clients():
    both = {"a": ClientValues([1, 2]), "b": ClientValues([1, 2, 3])}
    with pytest.raises(UsageError, match="lists of 2, 3 client values"):
        client_count(both)
    assert client_count({"a": ClientValues([]), "b": SharedValue(b"")}) == 0
    assert client_count({"b": SharedValue(b"")}) is None


@given(st.integers(0, 1000), st.integers(1, 40))
def test_clients_are_distributed_evenly_and_in_order(count, silos):
    silos = [f"silo-{index}" for index in range(silos)]
    clients_of = split_clients(count, silos)
    assert [client for silo in silos for client in clients_of[silo]] == list(range(count))
    sizes = [len(clients_of[silo]) for silo in silos]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
