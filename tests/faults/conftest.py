"""One cohort for the whole fault matrix and for its cut."""

from __future__ import annotations

import pytest

from tests.faults.harness import bench_in


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Run three silos on their own broker, each behind a proxy."""
    with bench_in(tmp_path_factory.mktemp("faults")) as bench:
        yield bench
