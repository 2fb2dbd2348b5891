"""A context's compression makes outgoing messages smaller and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from tests.support.computations import COLUMN, add
from tests.support.local_tff import pack_arguments
from tests.support.prometheus import sample

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

COUNT = 500_000


@tff.federated_computation(tff.FederatedType(COLUMN, tff.SERVER))
def there_and_back(column):
    return tff.federated_sum(tff.federated_map(add, tff.federated_broadcast(column)))


@pytest.mark.parametrize(("compression", "least", "most"), [("off", 4 * COUNT, np.inf), ("auto", 1, COUNT)])
def test_compression_shrinks_a_sparse_model_if_enabled(silos, compression, least, most):
    column = np.zeros(COUNT, np.float32)
    column[::50] = np.arange(COUNT // 50) % 7 + (compression == "auto")  # a new one each time: silos cache it
    with fedbroker.create_sync_execution_context(
        silos.url,
        cohort=silos.cohort,
        min_silos=2,
        options=fedbroker.Options(compression=compression, metrics="127.0.0.1:0"),
    ) as context:
        assert context.invoke(there_and_back, pack_arguments(there_and_back, (column,))) == 2 * column.sum()
        sent = sample(
            context.metrics_url, "fedbroker_broker_bytes_total", cohort=silos.cohort, connection="bulk", direction="out"
        )
    assert least <= sent < most
