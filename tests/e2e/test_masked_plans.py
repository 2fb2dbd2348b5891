"""Plans with masked sums run on real silos, with their real masks."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from fedbroker.errors import SiloError
from tests.support.local_tff import assert_same
from tests.support.masked_cohort import masked_cohort, masked_context

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

N = np.int32
VECTORS = tff.FederatedType(tff.TensorType(N, [None]), tff.CLIENTS)


@pytest.fixture(scope="module")
def context(broker):
    with masked_cohort(broker, "masked-plans", 3) as silos, masked_context(silos) as one:
        yield one


def test_every_kind_of_sum_with_shapes_and_bounds_that_are_known_at_run_time(context):
    @tff.federated_computation(N, VECTORS)
    def summed(number, x):
        sums = (
            tff.federated_secure_sum(x, number),
            tff.federated_secure_sum(x, 9),
            tff.federated_secure_sum_bitwidth(x, 4),
        )
        return (
            *sums,
            intrinsics.federated_secure_modular_sum(x, number),
            intrinsics.federated_secure_modular_sum(x, 9),
        )

    values = [np.array([at, 8], N) for at in range(5)]
    total = np.array([10, 40], N)
    assert_same(
        context.invoke(summed, tff.structure.Struct.unnamed(9, values)), (total, total, total, total % 9, total % 9)
    )


def test_two_barriers(context):
    plus = tff.tensorflow.computation(lambda x, y: x + y, (N, N))

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS))
    def program(x):
        first = tff.federated_secure_sum(x, 10)
        return first, tff.federated_secure_sum(tff.federated_map(plus, (x, tff.federated_broadcast(first))), 100)

    assert context.invoke(program, [N(1), N(2), N(3), N(4)]) == (10, 50)


def test_mixed_with_ordinary_aggregates_and_kept_values(context):
    doubled = tff.tensorflow.computation(lambda x: x * 2, N)
    scaled = tff.tensorflow.computation(lambda x, y: x * y, (N, N))

    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS))
    def program(x):
        values = tff.federated_map(doubled, x)
        plain = tff.federated_sum(values)
        again = tff.federated_map(scaled, (values, tff.federated_broadcast(plain)))
        return tff.federated_secure_sum(values, 10), plain, tff.federated_secure_sum_bitwidth(again, 12)

    assert context.invoke(program, [N(1), N(2), N(3), N(4)]) == (20, 20, 400)


def test_values_beyond_the_bound_fail_by_name_and_tell_nothing(context):
    @tff.federated_computation(tff.FederatedType(N, tff.CLIENTS))
    def program(x):
        return tff.federated_secure_sum(x, 10)

    for value in (4711, -4711):
        with pytest.raises(SiloError, match=r"Assert failed.*silo 's01'|silo 's01'.*Assert failed") as caught:
            context.invoke(program, [N(1), N(value), N(3)])
        assert "4711" not in str(caught.value)
    assert context.invoke(program, [N(1), N(2), N(3)]) == 6
