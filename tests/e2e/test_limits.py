"""A program's size limit holds at its edge, raises one clear line beyond it, and leaves later invocations intact."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import FedbrokerError
from tests.support.computations import COLUMN, add
from tests.support.local_tff import pack_arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BYTES = 400_000
"""Bytes below the limit of a single blob, by the size of a value's envelope."""


@tff.federated_computation(tff.FederatedType(COLUMN, tff.SERVER))
def there_and_back(column):
    return tff.federated_sum(tff.federated_map(add, tff.federated_broadcast(column)))


def test_blob_beyond_the_limit_is_refused_and_the_next_one_passes(silos):
    limits = fedbroker.Limits(max_blob=BYTES + 100)
    with fedbroker.create_sync_execution_context(
        silos.url, cohort=silos.cohort, min_silos=2, options=fedbroker.Options(limits=limits, retries=0)
    ) as context:

        def ask(size):
            return context.invoke(there_and_back, pack_arguments(there_and_back, (np.ones(size // 4, np.float32),)))

        assert ask(BYTES) == 2 * BYTES / 4
        with pytest.raises(FedbrokerError, match=rf"exceeds the limit of {BYTES + 100}") as caught:
            ask(BYTES + 200)
        assert "\n" not in str(caught.value)
        assert "holds for the whole value (max_blob)" in str(caught.value)
        assert ask(BYTES) == 2 * BYTES / 4
