"""One cohort of three silos and TFF's own local contexts for all conformance tests, and the record of their results."""

from __future__ import annotations

import pytest
from tensorflow_federated.python.core.backends.test import execution_contexts as test_contexts

import fedbroker
from fedbroker.testing import local_cohort
from tests.support.conformance import Comparison, MaskedComparison, ResultRecord
from tests.support.local_tff import local_context

SILOS = ("ewr", "jfk", "lga")

SOURCES = {
    # One client at each silo. The query does not depend on the silo, so all have the same rows.
    "rows": {
        "source": "duckdb",
        "query": "select [i, 1, 2, 3]::float[4] as x, [i / 2]::float[1] as y from range(6) t(i)",
    },
    # Three clients at each silo, one of them without rows.
    "wards": {
        "source": "duckdb",
        "query": "select i::float as days, 'ward ' || (i % 2) as ward from range(10) t(i)",
        "clients": "select 'ward ' || w as ward from range(3) t(w)",
    },
}


@pytest.fixture(scope="session")
def record() -> ResultRecord:
    return ResultRecord()


@pytest.fixture(scope="session")
def silos(broker):
    with local_cohort(
        dict.fromkeys(SILOS, SOURCES),
        cohort="conformance",
        broker=broker.url,
        policy={"client_results": "allow"},  # tests also compare single clients' values
    ) as cohort:
        yield cohort


@pytest.fixture(scope="session")
def secure_silos(request, broker):
    """Start silos with keys and a roster, which masked sums need."""
    more = request.config.getoption("--secure-silos") - len(SILOS)
    with local_cohort(
        dict.fromkeys((*SILOS, *(f"silo-{number:02}" for number in range(more))), SOURCES),
        cohort="conformance-secure",
        broker=broker.url,
        policy={"client_results": "allow"},
        security="sign",
    ) as cohort:
        yield cohort


def _context(silos, secure_sum):
    return fedbroker.create_sync_execution_context(
        silos.url,
        cohort=silos.cohort,
        min_silos=len(silos.silos),
        keys=silos.keys,
        options=fedbroker.Options(secure_sum=secure_sum),
    )


@pytest.fixture(scope="session")
def ours(silos):
    with fedbroker.create_sync_execution_context(silos.url, cohort=silos.cohort, min_silos=3) as context:
        yield context


@pytest.fixture(scope="session")
def ours_masked(secure_silos):
    with _context(secure_silos, "masked") as context:
        yield context


@pytest.fixture(scope="session")
def ours_in_plaintext(secure_silos):
    with _context(secure_silos, "plaintext") as context:
        yield context


@pytest.fixture(scope="session")
def theirs():
    return local_context()


@pytest.fixture(scope="session")
def theirs_in_plaintext(theirs):  # after `theirs`, which handles SIGINT
    return test_contexts.create_sync_test_cpp_execution_context()


@pytest.fixture
def same(request, record, ours, theirs):
    """Compare a computation on both contexts, and record the test's row."""
    yield from _compared(request, record, Comparison(ours, theirs))


@pytest.fixture
def same_secure(request, record, ours_masked, ours_in_plaintext, theirs_in_plaintext):
    """Compare like ``same``, with secure sums masked here and in plaintext there; masked results equal plaintext."""
    yield from _compared(request, record, MaskedComparison(ours_masked, ours_in_plaintext, theirs_in_plaintext))


def _compared(request, record, comparison):
    failed_before = request.session.testsfailed
    yield comparison
    marker = request.node.get_closest_marker("feature")
    if marker is not None and request.session.testsfailed == failed_before:
        record.rows.append(comparison.row(*marker.args))


def pytest_collection_modifyitems(items):
    """Run the page's test last, when every row is known."""
    items.sort(key=lambda item: item.name == "test_page_holds_the_results")
