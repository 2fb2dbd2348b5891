"""Masked sums on real silo processes: equal to plaintext, and a policy that lets nothing leave without a mask."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

import fedbroker
from fedbroker.errors import ConfigError, FedbrokerError, PolicyRefusal, SiloError
from fedbroker.testing import local_cohort
from tests.support.local_tff import assert_same, pack_arguments
from tests.support.pages import ROOT
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NAMES = ("bos", "ewr", "jfk", "lga")
VALUES = {"bos": 1, "ewr": 10, "jfk": 100, "lga": 1000}
SOURCES = {
    name: {"numbers": {"source": "duckdb", "query": f"select {value}::int as x from range(3) t(i)"}}
    for name, value in VALUES.items()
}
AUDITED = {"audit_file": "audit.log", "client_results": "refuse"}
COLUMN = tff.FederatedType(tff.TensorType(np.int32, [None]), tff.CLIENTS)
LARGEST = 1 << 20


@tff.tensorflow.computation(COLUMN.member)
def total_of(column):
    return tf.reduce_sum(column)


@tff.federated_computation(COLUMN)
def masked_total(columns):
    return tff.federated_secure_sum(tff.federated_map(total_of, columns), LARGEST)


@tff.federated_computation(COLUMN)
def open_total(columns):
    return tff.federated_sum(tff.federated_map(total_of, columns))


@tff.federated_computation(COLUMN)
def mixed_totals(columns):
    totals = tff.federated_map(total_of, columns)
    return tff.federated_secure_sum(totals, LARGEST), tff.federated_sum(totals)


@tff.tensorflow.computation(np.int32, np.int32)
def shifted(total, everything):
    return total + everything % 7


@tff.federated_computation(COLUMN)
def two_stages(columns):
    """A second masked sum of values that each silo keeps, shifted by the first sum."""
    totals = tff.federated_map(total_of, columns)
    first = tff.federated_secure_sum(totals, LARGEST)
    second = tff.federated_map(shifted, (totals, tff.federated_broadcast(first)))
    return first, tff.federated_secure_sum(second, LARGEST), intrinsics.federated_secure_modular_sum(second, 97)


SUM = 3 * sum(VALUES.values())


@pytest.fixture(scope="module")
def silos(broker):
    with local_cohort(SOURCES, cohort="masked", broker=broker.url, policy=AUDITED, security="seal") as cohort:
        yield cohort


@pytest.fixture(scope="module")
def strict_silos(broker):
    policy = {**AUDITED, "aggregates": "masked", "min_sum_silos": 4}
    with local_cohort(SOURCES, cohort="strict", broker=broker.url, policy=policy, security="sign") as cohort:
        yield cohort


def context_on(cohort, *, secure_sum=None, **settings):
    return fedbroker.create_sync_execution_context(
        cohort.url,
        cohort=cohort.cohort,
        keys=cohort.keys,
        options=fedbroker.Options(secure_sum=secure_sum),
        **{"min_silos": 4, **settings},
    )


@pytest.fixture(scope="module", params=["fail", "drop"])
def context(request, silos):
    with context_on(silos, stragglers=request.param) as context:
        yield context


def invoke(context, comp, *args):
    return context.invoke(comp, pack_arguments(comp, args))


NUMBERS = (fedbroker.data("numbers"),)


@pytest.mark.parametrize("comp", [masked_total, mixed_totals, two_stages])
def test_masked_sums_equal_plaintext(context, silos, comp):
    found = invoke(context, comp, *NUMBERS)
    assert (found if comp is masked_total else found[0]) == SUM
    with context_on(silos, secure_sum="plaintext") as plain:
        assert_same(found, invoke(plain, comp, *NUMBERS))


def test_structs_of_all_dtypes_and_ranks_are_masked(context):
    kinds = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
    type_ = tff.StructType([(kind.__name__, tff.TensorType(kind, [2, 3])) for kind in kinds] + [("one", np.int32)])

    @tff.federated_computation(tff.FederatedType(type_, tff.CLIENTS))
    def summed(x):
        return tff.federated_secure_sum(x, 100)

    def value(of):
        arrays = [(kind.__name__, np.full([2, 3], of, kind)) for kind in kinds]
        return collections.OrderedDict([*arrays, ("one", of)])

    found = invoke(context, summed, [value(of) for of in range(6)])  # some silos have two clients
    assert found["one"] == 15
    for kind in kinds:
        assert found[kind.__name__].dtype == kind
        assert np.array_equal(found[kind.__name__], np.full([2, 3], 15, kind))


def test_value_above_its_bound_names_the_silo_and_nothing_else(silos, context):
    @tff.federated_computation(COLUMN)
    def bounded(columns):
        return tff.federated_secure_sum(tff.federated_map(total_of, columns), 400)

    with pytest.raises(SiloError, match="silo 'lga'") as caught:
        invoke(context, bounded, *NUMBERS)
    assert "3000" not in str(caught.value)
    assert invoke(context, masked_total, *NUMBERS) == SUM


def test_audit_log_records_masked_values(silos, context):
    invoke(context, masked_total, *NUMBERS)
    lines = [json.loads(line) for line in (silos.silos["ewr"].directory / "audit.log").read_text().splitlines()]
    assert any("masked" in json.dumps(line) for line in lines)


def test_strict_silo_refuses_what_leaves_without_a_mask(strict_silos):
    with context_on(strict_silos) as context:
        assert invoke(context, masked_total, *NUMBERS) == SUM
        for comp in (open_total, mixed_totals):
            with pytest.raises(PolicyRefusal, match="aggregates") as caught:
                invoke(context, comp, *NUMBERS)
            assert "secure" in caught.value.hint
        assert invoke(context, masked_total, *NUMBERS) == SUM
    with context_on(strict_silos, secure_sum="plaintext") as context, pytest.raises(PolicyRefusal, match="aggregates"):
        invoke(context, masked_total, *NUMBERS)


def test_strict_silo_refuses_sums_over_too_few(strict_silos):
    with (
        context_on(strict_silos, min_silos=3, max_silos=3) as context,
        pytest.raises(FedbrokerError, match="3 silos"),
    ):
        invoke(context, masked_total, *NUMBERS)


def test_masked_sum_needs_three_silos(silos):
    with context_on(silos, min_silos=2, max_silos=2) as context:
        with pytest.raises(FedbrokerError, match="2 silos") as caught:
            invoke(context, masked_total, *NUMBERS)
        assert "min_silos" in caught.value.hint or "3" in caught.value.hint


def test_masked_sums_need_keys(silos):
    with pytest.raises(ConfigError, match="secure_sum"):
        fedbroker.create_sync_execution_context(
            silos.url, cohort=silos.cohort, min_silos=4, options=fedbroker.Options(secure_sum="masked")
        )


def test_airports_example_learns_by_masked_sums():
    done = subprocess.run(
        [sys.executable, "-m", "examples.airports.masked"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "masked: ok"
