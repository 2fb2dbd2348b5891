"""One cohort for the whole matrix, and its cut for every test run."""

from __future__ import annotations

import pytest

from tests.faults.harness import bench_in


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Three silos on a broker of their own, each behind a proxy."""
    with bench_in(tmp_path_factory.mktemp("faults")) as bench:
        yield bench
