"""One cohort for the whole matrix, and its cut for every test run."""

from __future__ import annotations

import pytest

from tests.faults.harness import bench_in


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """Three silos on a broker of their own, each behind a proxy."""
    with bench_in(tmp_path_factory.mktemp("faults")) as bench:
        yield bench


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without ``--faults`` the cut: what is marked ``whole`` belongs to the whole matrix only."""
    if not config.getoption("--faults"):
        left_out = [item for item in items if item.get_closest_marker("whole")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
