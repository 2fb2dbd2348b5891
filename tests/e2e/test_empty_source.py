"""A round in which one silo's source has no rows: it goes on, with a client without rows."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import DataError
from fedbroker.testing import local_cohort
from tests.support import computations as c
from tests.support.local_tff import pack_arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FILES = {"ewr": "x,n\n1.5,1\n2.5,2\n", "jfk": "x,n\n", "lga": "x,n\n4,3\n"}
FILE = {"table": {"source": "duckdb", "file": "table.csv"}}
COLUMNS = collections.OrderedDict(x=tff.TensorType(np.float32, [None]), n=tff.TensorType(np.int64, [None]))


@tff.federated_computation(tff.FederatedType(COLUMNS, tff.CLIENTS))
def sums(tables):
    add = tff.tensorflow.computation(lambda t: (tf.reduce_sum(t["x"]), tf.reduce_sum(t["n"])), COLUMNS)
    return tff.federated_sum(tff.federated_map(add, tables))


def as_batches():
    """Return a source of four features and a label for each silo; that of jfk has no rows and no types."""
    query = "select [x, 1, 2, 3]::float[4] as x, [n]::float[1] as y from 'table.csv'"
    filled = {"source": "duckdb", "query": query}
    empty = {"source": "python", "callable": "no_rows:batches"}
    return {name: {"batches": empty if name == "jfk" else filled} | FILE for name in FILES}


@pytest.fixture(scope="module")
def cohort_of_three(broker, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cohort")
    for name, text in FILES.items():
        (directory / name).mkdir()
        (directory / name / "table.csv").write_text(text)
        (directory / name / "no_rows.py").write_text("def batches():\n    return {'x': [], 'y': []}\n")
    with local_cohort(as_batches(), cohort="empty", broker=broker.url, directory=directory) as cohort:
        yield cohort


@pytest.fixture(scope="module")
def run(cohort_of_three):
    """Return ``run(comp, *args)``, which invokes on the cohort."""
    url, name = cohort_of_three.url, cohort_of_three.cohort
    with fedbroker.create_sync_execution_context(url, cohort=name, min_silos=3) as context:
        yield lambda comp, *args: context.invoke(comp, pack_arguments(comp, args))


def test_file_with_a_header_only_is_a_client_without_rows(run):
    assert tuple(run(sums, fedbroker.data("table"))) == (8.0, 6)


def test_learning_goes_on_with_a_silo_without_rows(run):
    process = tff.learning.algorithms.build_weighted_fed_avg(c.regression, tff.learning.optimizers.build_sgdm(1e-4))
    output = run(process.next, run(process.initialize), fedbroker.data("batches", batch_size=2))
    assert output.metrics["client_work"]["train"]["num_examples"] == 3


def test_error_names_all_columns_of_all_silos_at_once(run):
    wrong = collections.OrderedDict(x=tff.TensorType(np.bool_, [None]), n=tff.TensorType(np.str_, [None]))

    @tff.federated_computation(tff.FederatedType(wrong, tff.CLIENTS))
    def echo(tables):
        return tff.federated_sum(
            tff.federated_map(tff.tensorflow.computation(lambda t: tf.size(t["n"]), wrong), tables)
        )

    with pytest.raises(DataError) as caught:
        run(echo, fedbroker.data("table"))
    line = str(caught.value)
    for silo in ("ewr", "lga"):
        assert line.count(f"'{silo}'") == 2, line
    assert "column 'x' of source 'table': expected bool, found float64" in line
    assert "column 'n' of source 'table': expected str, found int64" in line
    assert "jfk" not in line
