"""Imports by layer, checked in fresh interpreters: silos must start quickly and stay small."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.wait import PROCESS_SECONDS

LIGHT = [
    "fedbroker.wire",
    "fedbroker.transport",
    "fedbroker.deadletters",
    "fedbroker.diagnostics",
    "fedbroker.session",
    "fedbroker.metrics",
    "fedbroker.runtime",
    "fedbroker.broker",
    "fedbroker.admin",
    "fedbroker.board",
    "fedbroker.web",
    "fedbroker.testing",
    "fedbroker.cli",
    "fedbroker.errors",
    "fedbroker.deadline",
    "fedbroker.log",
    "fedbroker.console",
    "fedbroker.text",
    "fedbroker_worker",
]

_IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [sys.argv[1]]
for found in pkgutil.walk_packages(getattr(package, "__path__", []), sys.argv[1] + "."):
    # a main module is a program; the supervisor is one that runs by itself.
    if not found.name.endswith(".__main__"):
        importlib.import_module(found.name)
        names.append(found.name)
tff = sys.modules.get("tensorflow_federated")
print(json.dumps({
    "imported": names,
    "tensorflow": sorted(name for name in sys.modules if name.split(".")[0] in ("tensorflow", "jax", "keras")),
    "tff_executed": tff is not None and hasattr(tff, "federated_computation"),
    "tff_modules": sorted(name for name in sys.modules if name.startswith("tensorflow_federated.python")),
}))
"""

_IMPORT_FEDBROKER = """
import json, sys, time
began = time.process_time()
import fedbroker
names = dir(fedbroker)
spent = time.process_time() - began
heavy = "numpy aio_pika msgspec structlog grpc google.protobuf cyclopts rich duckdb asyncio tensorflow"
print(json.dumps({"seconds": spent, "heavy": [name for name in heavy.split() if name in sys.modules], "names": names}))
"""


def fresh(program: str, *arguments: str) -> dict[str, object]:
    """Run a program in a fresh interpreter; return its JSON output."""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("package", LIGHT)
def test_no_tensorflow_below_the_plan(package: str) -> None:
    seen = fresh(_IMPORT_ALL, package)
    assert package in seen["imported"]  # type: ignore[operator]
    assert seen["tensorflow"] == []
    assert seen["tff_modules"] == []
    assert not seen["tff_executed"]


def test_protocol_is_imported_without_the_tff_package() -> None:
    """Check that the parent module that replaces TFF's has none of TFF's names."""
    program = (
        "import json, sys\n"
        "from fedbroker.runtime import protos\n"
        "bare = sys.modules.get('tensorflow_federated')\n"
        "print(json.dumps({'bare': bare is None or not hasattr(bare, 'federated_computation'),\n"
        "                  'protos': any(name.startswith('tensorflow_federated.proto') for name in sys.modules)}))\n"
    )
    assert fresh(program) == {"bare": True, "protos": True}


def test_import_of_fedbroker_is_cheap() -> None:
    seen = fresh(_IMPORT_FEDBROKER)
    assert seen["heavy"] == []
    assert seen["seconds"] < 0.3  # type: ignore[operator]
    assert "set_sync_execution_context" in seen["names"]  # type: ignore[operator]
