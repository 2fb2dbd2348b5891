"""Fixtures of all tests: a private broker for the whole run and a unique cohort name."""

from __future__ import annotations

import gc
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fedbroker.broker import PrivateBroker

# TFF's own contexts, with which tests compare bits, use oneDNN on some processors unless told otherwise. fedbroker's
# runtimes do not, so that their results are the same on all processors.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# No property test has a deadline for one example: a loaded machine would fail it. pytest-timeout bounds each test.
settings.register_profile("fedbroker", deadline=None)
settings.load_profile("fedbroker")


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    """Run one private RabbitMQ node for all tests; programs connect to its ``url``."""
    with PrivateBroker() as node:
        yield node


@pytest.fixture(scope="session", autouse=True)
def never_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--blocking``, fail a test if our own code blocks an event loop."""
    if not request.config.getoption("--blocking"):
        yield
        return
    from tests.support.blocking import watching

    with watching():
        yield


@pytest.fixture
def cohort() -> str:
    """Return a cohort name that no other test uses, since all tests share one broker."""
    return f"t{secrets.token_hex(6)}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-page", action="store_true", help="write docs/compatibility.md from what the tests find")
    parser.addoption("--faults", action="store_true", help="every cell of the fault matrix, not only the cut")
    parser.addoption("--secure-silos", type=int, default=3, help="how many silos compute conformance's secure sums")
    parser.addoption("--soak", type=int, default=20, help="how many invocations the soak makes")
    parser.addoption("--soak-seed", type=int, default=4, help="of the soak's faults")
    parser.addoption("--programs", type=int, default=21, help="how many programs use stateful values in pairs")
    parser.addoption("--blocking", action="store_true", help="fail where our own code blocks an event loop")
    parser.addoption("--alone", choices=("no", "only"), help="leave out what measures time, or run nothing else")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of files without timing tests if ``--alone only`` is given."""
    if config.getoption("--alone") == "only" and collection_path.match("test_*.py"):
        return "pytest.mark.alone" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that use the broker, so that ``-m 'not broker'`` deselects them.

    Without ``--faults``, tests marked ``whole`` are deselected and only the cut of the fault matrix runs. Tests marked
    ``alone`` need the processors or much memory for themselves: ``make test`` runs them after all others.
    """
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")
    alone = config.getoption("--alone")
    left_out = [
        item
        for item in items
        if (item.get_closest_marker("whole") and not config.getoption("--faults"))
        or (alone and (item.get_closest_marker("alone") is None) == (alone == "only"))
    ]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_unconfigure() -> None:
    """Release TFF's default context early: at the interpreter's exit its clean-up prints a traceback."""
    if "tensorflow_federated" in sys.modules:
        from tensorflow_federated.python.core.impl.context_stack import runtime_error_context
        from tensorflow_federated.python.core.impl.context_stack.context_stack_impl import context_stack

        context_stack.set_default_context(runtime_error_context.create_runtime_error_context())
        gc.collect()
