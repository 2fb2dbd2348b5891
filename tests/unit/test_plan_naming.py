"""Computations have the names that their authors gave them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff

from fedbroker.plan import make_plan
from fedbroker.plan.blocks import name_of
from tests.support import computations as c


@tff.federated_computation
def nothing_taken():
    return tff.federated_value(1, tff.SERVER)


@tff.federated_computation(c.AT_CLIENTS)
def with_arg_in_its_name_arg(x):
    return tff.federated_sum(x)


@pytest.mark.parametrize(
    ("comp", "name"),
    [
        (c.total, "total"),
        (c.two_barriers, "two_barriers"),
        (nothing_taken, "nothing_taken"),
        (with_arg_in_its_name_arg, "with_arg_in_its_name_arg"),
        (tff.federated_computation(lambda x: x, c.AT_CLIENTS), "<lambda>"),
        (tff.tensorflow.computation(lambda x: x + 1, np.int32), "computation"),
    ],
)
def test_names(comp, name):
    assert name_of(comp) == name
    assert make_plan(comp).name == name
