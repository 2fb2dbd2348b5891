"""What every test may ask for: a private broker for the whole run, and names that nobody else has."""

from __future__ import annotations

import gc
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fedbroker.broker import PrivateBroker

# No property test has a deadline for one example: a loaded machine would fail it. pytest-timeout bounds each test.
settings.register_profile("fedbroker", deadline=None)
settings.load_profile("fedbroker")


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    """One private RabbitMQ node for the whole run; its ``url`` is what programs need."""
    with PrivateBroker() as node:
        yield node


@pytest.fixture
def cohort() -> str:
    """A cohort's name that no other test uses, since all share one broker."""
    return f"t{secrets.token_hex(6)}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-page", action="store_true", help="write docs/compatibility.md from what the tests find")
    parser.addoption("--faults", action="store_true", help="every cell of the fault matrix, not only the cut")
    parser.addoption("--soak", type=int, default=20, help="how many invocations the soak makes")
    parser.addoption("--soak-seed", type=int, default=4, help="of the soak's faults")
    parser.addoption("--alone", choices=("no", "only"), help="leave out what measures time, or run nothing else")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare ``--alone only`` the imports of all files that have nothing for it."""
    if config.getoption("--alone") == "only" and collection_path.match("test_*.py"):
        return "pytest.mark.alone" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whoever asks for the broker is marked so: ``-m 'not broker'`` leaves those tests out.

    Without ``--faults`` only the cut is run: what is marked ``whole`` is left out. What is marked ``alone`` holds times
    to bounds, which say nothing while other tests have the processors, or takes much of the machine's memory: ``make
    test`` runs it after the others.
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
    """Let go of TFF's default context while that works: at the interpreter's end its clean-up prints a traceback."""
    if "tensorflow_federated" in sys.modules:
        from tensorflow_federated.python.core.impl.context_stack import runtime_error_context
        from tensorflow_federated.python.core.impl.context_stack.context_stack_impl import context_stack

        context_stack.set_default_context(runtime_error_context.create_runtime_error_context())
        gc.collect()
