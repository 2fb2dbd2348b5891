"""Runs TFF's own end-to-end tests twice, on its contexts and on a cohort, and tells what passes on the first only.

    git clone --branch v0.87.0 https://github.com/google-parfait/tensorflow-federated federated
    make upstream TFF=federated

Takes about half an hour. The checkout supplies the tests and their helpers; what they test is the installed wheel.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import tensorflow_federated as tff

FACTORY = re.compile(r"(set|create)_(a?sync)_(local|test)_cpp_execution_context|test_contexts\.get_all_contexts")
PARTS = ("aggregators", "analytics", "core/backends", "core/impl/execution_contexts", "learning", "program", "tests")
NOT_IN_THE_WHEEL = re.compile(
    r"prefetching_data_source|cpp_execution_contexts_test|/xla/|backend_accelerators|remote_runtime"
)
# Of TFF's `examples`, which must not be mistaken for ours. Their tests spell it with a point and without.
EXAMPLES = "upstream_examples"
IMPORT = re.compile(r"^from examples\.?(?=\w)", re.MULTILINE)
OF_TFFS_OWN_WORKER = {
    "SyncLocalCPPExecutionContextTest::test_process_starts": "looks for the worker process that TFF's context starts",
    "SyncLocalCPPExecutionContextTest::test_raises_runtime_error_if_no_worker_binarys": "takes that worker's file away",
    "SyncLocalCPPExecutionContextTest::test_stub_going_down_restarts_process": "kills that worker by its own handle",
}


def overlay(checkout: Path, directory: Path) -> list[Path]:
    """Return the installed package overlaid with the checkout's tests and helpers, and the tests to run."""
    package = directory / "tensorflow_federated"
    shutil.copytree(Path(tff.__file__).parent, package, copy_function=os.symlink)
    for source in (checkout / "tensorflow_federated" / "python").rglob("*.py"):
        target = package / source.relative_to(checkout / "tensorflow_federated")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    tests = [path for part in PARTS for path in sorted((package / "python" / part).rglob("*_test.py"))]
    chosen = [path for path in tests if FACTORY.search(path.read_text()) and not NOT_IN_THE_WHEEL.search(str(path))]
    return chosen + examples(checkout, directory)


def examples(checkout: Path, directory: Path) -> list[Path]:
    """Return the tests of the checkout's examples, copied as a package of their own."""
    for source in (checkout / "examples").rglob("*.py"):
        target = directory / EXAMPLES / source.relative_to(checkout / "examples")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(IMPORT.sub(f"from {EXAMPLES}.", source.read_text()))
    return sorted((directory / EXAMPLES).rglob("*_test.py"))


def run(kind: str, tests: list[Path], directory: Path) -> dict[str, str]:
    """Return the outcome of each test: ``passed``, ``skipped`` or ``failed``."""
    report = directory / f"{kind}.xml"
    root = Path(__file__).parents[2]
    environment = os.environ | {"UPSTREAM": kind, "PYTHONPATH": f"{directory}:{root}:{root / 'workers'}"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.upstream.plugin", "-c", os.devnull, "--rootdir", directory]
    command += ["--import-mode=importlib", "-p", "no:cacheprovider", "-q", "--timeout=300", f"--junitxml={report}"]
    process = subprocess.Popen([*command, *tests], env=environment, cwd=directory, start_new_session=True)
    try:
        process.wait()
    finally:
        # TFF's own contexts do not end their workers.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        kinds = {child.tag for child in case}
        outcomes[name] = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
    return outcomes


def main() -> int:
    """Return 0 if every test that passes on TFF's contexts passes on a cohort."""
    parser = argparse.ArgumentParser(prog="make upstream", description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of TensorFlow Federated at v0.87.0")
    parser.add_argument("--only", default="", help="run the test files whose path contains this")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedbroker-upstream-") as name:
        tests = [path for path in overlay(arguments.checkout, Path(name)) if arguments.only in str(path)]
        stock = run("stock", tests, Path(name))
        ours = run("cohort", tests, Path(name))
    passing = {name for name, outcome in stock.items() if outcome == "passed"}
    lost = sorted(name for name in passing if ours.get(name) != "passed")
    unexcused = [name for name in lost if name not in OF_TFFS_OWN_WORKER]
    print(
        f"\n{len(tests)} files, {len(stock)} tests; {len(passing)} pass on TFF's contexts, {len(passing) - len(lost)}"
    )
    print(f"of these on a cohort; {len(lost) - len(unexcused)} are about TFF's own worker process")
    for name in unexcused:
        print(f"lost: {name}")
    return 1 if unexcused or not passing else 0


if __name__ == "__main__":
    sys.exit(main())
