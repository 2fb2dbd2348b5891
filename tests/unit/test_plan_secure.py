"""Secure sums in plaintext: ordinary aggregates, and the plan names them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff

from fedbroker.errors import PlanError
from fedbroker.plan import explain, make_plan

INTS = tff.FederatedType(np.int32, tff.CLIENTS)


@tff.federated_computation(INTS)
def secure(x):
    return tff.federated_secure_sum(x, 10), tff.federated_secure_sum_bitwidth(x, 4), tff.federated_sum(x)


def test_plaintext_is_off_by_default():
    with pytest.raises(PlanError, match='secure_sum="plaintext"'):
        make_plan(secure)


def test_plan_in_plaintext_names_its_exposed_sums():
    plan = make_plan(secure, secure_sum="plaintext")
    assert plan.exposed == ("federated_secure_sum", "federated_secure_sum_bitwidth")
    assert plan.round_trips == 1
    assert "seen by the coordinator: federated_secure_sum, federated_secure_sum_bitwidth" in str(
        explain(secure, secure_sum="plaintext")
    )


def test_plan_without_secure_sums_exposes_nothing():
    @tff.federated_computation(INTS)
    def total(x):
        return tff.federated_sum(x)

    plan = make_plan(total, secure_sum="plaintext")
    assert plan.exposed == ()
    assert "plaintext" not in str(explain(total, secure_sum="plaintext"))


def test_every_aggregate_names_its_strategy():
    (server,) = (stage for stage in make_plan(secure, secure_sum="plaintext").stages if hasattr(stage, "merges"))
    assert {merge.aggregation for merge in server.merges} == {"partials"}
