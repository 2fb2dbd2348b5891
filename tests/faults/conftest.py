"""The matrix's own options: all of its cells instead of the cut, the page of what was found, and the soak's length."""

from __future__ import annotations

import pytest

from tests.faults.harness import bench_in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="every cell of the fault matrix, not only the cut")
    parser.addoption("--soak", type=int, default=20, help="how many invocations the soak makes")
    parser.addoption("--soak-seed", type=int, default=4, help="of the soak's faults")


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
