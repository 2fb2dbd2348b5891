"""Functions as arguments become part of the computation."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow_federated as tff

from fedbroker.plan import make_plan
from fedbroker.plan.functions import holds_function, specialize
from tests.support import computations as c

F = np.float32
FUNCTION = tff.FunctionType(F, F)


@tff.federated_computation(collections.OrderedDict(f=FUNCTION, n=F), c.AT_CLIENTS)
def applied(p, x):
    return tff.federated_sum(tff.federated_map(p["f"], x)), p["n"]


def argument(function, number, values):
    return tff.structure.Struct([("p", collections.OrderedDict(f=function, n=number)), ("x", values)])


def test_functions_are_found_in_parameters():
    assert holds_function(applied.type_signature.parameter)
    assert not holds_function(c.total.type_signature.parameter)
    assert not holds_function(None)


def test_bound_computation_keeps_its_result_type_and_has_no_function():
    special, rest = specialize(applied, argument(c.half, 2.0, [1.0]))
    assert list(rest) == [2.0, [1.0]]
    assert special.type_signature.result == applied.type_signature.result
    assert [str(slot.type) for slot in make_plan(special).parameters] == ["float32", "{float32}@CLIENTS"]


def test_equal_functions_make_equal_computations_for_all_values():
    first, _ = specialize(applied, argument(c.half, 2.0, [1.0]))
    second, _ = specialize(applied, argument(c.half, 3.0, [4.0, 5.0]))
    other, _ = specialize(applied, argument(tff.tensorflow.computation(lambda x: -x, F), 2.0, [1.0]))
    assert first == second
    assert hash(first) == hash(second)
    assert first != other


def test_computation_of_functions_only_has_no_argument_left():
    alone = tff.federated_computation(lambda f: f(F(1)), FUNCTION)
    special, rest = specialize(alone, c.half)
    assert rest is None
    assert special.type_signature.parameter is None
