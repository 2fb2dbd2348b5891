"""Computations that cannot be planned are refused with their name and an alternative."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_federated as tff

from fedbroker.errors import PlanError
from fedbroker.plan import compiler, make_plan
from tests.support import computations as c

INTS = tff.FederatedType(np.int32, tff.CLIENTS)


def secure_sum(x):
    return tff.federated_secure_sum(x, max_input=10)


def secure_bitwidth(x):
    return tff.federated_secure_sum_bitwidth(x, bitwidth=8)


@pytest.mark.parametrize(
    ("body", "intrinsic"),
    [(secure_sum, "federated_secure_sum"), (secure_bitwidth, "federated_secure_sum_bitwidth")],
)
def test_secure_sums_are_refused_and_named(body, intrinsic):
    with pytest.raises(PlanError, match="coordinator would see") as caught:
        make_plan(tff.federated_computation(body, INTS))
    assert caught.value.intrinsic == intrinsic
    assert "federated_sum" in caught.value.hint


def test_secure_select_is_planned_as_the_silo_selects_by_itself():
    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(np.int32, [1]), tff.CLIENTS),
        tff.FederatedType(np.int32, tff.SERVER),
        tff.FederatedType(np.float32, tff.SERVER),
    )
    def select(keys, max_key, value):
        pick = tff.tensorflow.computation(lambda v, k: v, (np.float32, np.int32))
        return tff.federated_secure_select(keys, max_key, value, pick)

    for secure_sum in ("refuse", "plaintext", "masked"):
        plan = make_plan(select, secure_sum=secure_sum)
        assert plan.exposed == plan.masked == ()
        assert plan.round_trips == 1


def test_jax_is_refused_plainly():
    multiply = tff.jax.computation(lambda x: x * 2, np.float32)

    @tff.federated_computation(c.AT_CLIENTS)
    def doubled(x):
        return tff.federated_sum(tff.federated_map(multiply, x))

    with pytest.raises(PlanError, match=r"tff\.tensorflow\.computation"):
        make_plan(doubled)


def test_function_parameter_is_refused_and_function_result_needs_no_stage():
    @tff.federated_computation(tff.FunctionType(np.float32, np.float32))
    def apply(f):
        return f(np.float32(1))

    with pytest.raises(PlanError, match="parameter holds a function"):
        make_plan(apply)

    @tff.federated_computation
    def give():
        return c.half

    plan = make_plan(give)
    assert plan.round_trips == 0
    assert plan.stages == ()


def test_computation_without_types_is_refused():
    with pytest.raises(PlanError, match="parameter's types"):
        make_plan(tff.federated_computation(lambda x: x))


def test_function_that_captures_a_value_is_refused():
    @tff.federated_computation(c.AT_CLIENTS, np.float32)
    def shifted(x, by):
        return tff.federated_map(tff.federated_computation(lambda value: c.minus(value, by), np.float32), x)

    with pytest.raises(PlanError, match="captures a value of type float32"):
        make_plan(shifted)


def test_a_planners_bug_says_how_to_report_it(monkeypatch):
    def broken(_):
        raise AttributeError("no such part\nand more")

    monkeypatch.setattr(compiler, "native", SimpleNamespace(desugar_and_transform_to_native=broken))
    with pytest.raises(PlanError, match="cannot compile the computation: AttributeError: no such part") as caught:
        make_plan(c.total)
    assert "defect of fedbroker" in caught.value.hint
    assert "TFF's own context" not in str(caught.value)
    # The expression in the hint works, and shows neither values nor graphs.
    assert "federated_sum" in c.total.to_building_block().formatted_representation()


def test_errors_are_one_line():
    with pytest.raises(PlanError) as caught:
        make_plan(tff.federated_computation(secure_sum, INTS))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("[FB5001]")
