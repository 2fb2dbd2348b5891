"""One cohort of silo processes for all end-to-end tests, with a real broker and the real C++ runtime."""

from __future__ import annotations

import duckdb
import pytest

import fedbroker
from fedbroker.testing import local_cohort
from tests.support.local_tff import local_context, pack_arguments

ROWS = {"ewr": 700, "jfk": 500}

SOURCES = {
    "delays": {"source": "duckdb", "query": "select minutes from 'delays.csv'"},
    "batches": {
        "source": "duckdb",
        "query": "select [minutes, 1, 2, 3]::float[4] as x, [minutes / 10]::float[1] as y from 'delays.csv'",
    },
    "summary": {"source": "duckdb", "query": "select count(*) as n, avg(minutes) as mean from 'delays.csv'"},
    "names": {"source": "duckdb", "query": "select 'flight ' || minutes::int as name from 'delays.csv' limit 3"},
}


@pytest.fixture(scope="session")
def silos(broker, tmp_path_factory):
    """Start two silos, each with its own file."""
    directory = tmp_path_factory.mktemp("cohort")
    for name, rows in ROWS.items():
        (directory / name).mkdir()
        query = f"select (i * 7 % 50)::float as minutes from range({rows}) t(i)"
        duckdb.sql(f"copy ({query}) to '{directory / name / 'delays.csv'}' (header)")
    with local_cohort(
        dict.fromkeys(ROWS, SOURCES),
        cohort="e2e",
        broker=broker.url,
        directory=directory,
        policy={"client_results": "allow"},  # some tests read single clients' values
    ) as cohort:
        yield cohort


@pytest.fixture(scope="session")
def context(silos):
    """Open a synchronous context over both silos."""
    with fedbroker.create_sync_execution_context(silos.url, cohort=silos.cohort, min_silos=2) as context:
        yield context


@pytest.fixture(scope="session")
def run(context):
    """Return ``run(comp, *args)``, which invokes on the cohort."""
    return lambda comp, *args: context.invoke(comp, pack_arguments(comp, args))


@pytest.fixture(scope="session")
def tff_local():
    """Return ``run(comp, *args)``, which invokes on TFF's own local context."""
    context = local_context()
    return lambda comp, *args: context.invoke(comp, pack_arguments(comp, args))
