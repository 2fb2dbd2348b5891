"""``fedbroker.simulate``: federations over data at hand, in programs and in notebooks, without anything left over."""

from __future__ import annotations

import re
import signal
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from jupyter_client import KernelManager

import fedbroker
from fedbroker.context.contexts import default_context
from fedbroker.errors import CohortError, ContextClosed
from tests.support.pages import blocks
from tests.support.program_process import start_program
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROWS = tff.FederatedType(tff.TensorType(np.float32, [None]), tff.CLIENTS)
PAIRS = tff.FederatedType(
    tff.StructWithPythonType(
        [("x", tff.TensorType(np.float32, [None, 2])), ("y", tff.TensorType(np.int32, [None]))], dict
    ),
    tff.CLIENTS,
)


@tff.federated_computation(ROWS)
def total(rows):
    add = tff.tensorflow.computation(lambda values: tf.reduce_sum(values), ROWS.member)
    return tff.federated_sum(tff.federated_map(add, rows))


@tff.federated_computation(PAIRS)
def weighted(pairs):
    add = tff.tensorflow.computation(
        lambda pair: tf.reduce_sum(pair["x"] * tf.cast(pair["y"], tf.float32)[:, tf.newaxis]), PAIRS.member
    )
    return tff.federated_sum(tff.federated_map(add, pairs))


@tff.federated_computation(ROWS)
def clients(rows):
    one = tff.tensorflow.computation(lambda values: tf.constant(1), ROWS.member)
    return tff.federated_sum(tff.federated_map(one, rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    (directory / "rows.csv").write_text("minutes\n100\n200\n")
    np.savez(directory / "pairs.npz", x=np.ones((2, 2), np.float32), y=np.array([1, 2], np.int64))
    return directory


@pytest.fixture(scope="module")
def sim(broker, files):
    data = {
        "frames": {"rows": pd.DataFrame({"minutes": [1.0, 2.0]}), "pairs": (np.full((1, 2), 2.0), [3])},
        "tables": {
            "rows": pl.DataFrame({"minutes": [10, 20]}),
            "pairs": pa.table({"x": [[5.0, 5.0]], "y": [7]}),
        },
        "files": {"rows": files / "rows.csv", "pairs": str(files / "pairs.npz")},
    }
    with fedbroker.simulate(data, cohort="simulated", broker=broker.url) as simulation:
        yield simulation


def test_silos_compute_over_frames_arrays_and_files(sim):
    with tff.framework.get_context_stack().install(sim.context):
        assert total(fedbroker.data("rows")) == 1 + 2 + 10 + 20 + 100 + 200
        assert weighted(fedbroker.data("pairs")) == 2 * (2 * 3 + 5 * 7 + 1 + 2)
    assert sim.context.last_session.participants == ("files", "frames", "tables")


def test_simulation_is_shown_without_its_password(sim, broker):
    assert repr(sim) == "Simulation(cohort='simulated', silos=['files', 'frames', 'tables'])"
    assert sim.url == broker.url
    assert sim.keys is None


def test_a_second_simulation_leaves_a_held_one_alone_and_ends_the_one_before(sim, broker, monkeypatch):
    monkeypatch.setenv("FEDBROKER_KEYS", "/no/such/file")  # meant for programs with silos elsewhere
    before = default_context()
    data = {"a": pd.DataFrame({"user": ["u", "v", "u"], "minutes": [1.0, 2.0, 3.0]})}
    first = fedbroker.simulate(data, clients="user", cohort="first", broker=broker.url)
    assert default_context() is first.context
    assert clients(fedbroker.data("rows")) == 2
    silo = psutil.Process(first.silos["a"].pid)
    second = fedbroker.simulate({"a": {"x": [4.0]}}, cohort="second", broker=broker.url, security="seal")
    assert (first.closed, sim.closed) == (True, False)
    assert not silo.is_running()
    with pytest.raises(ContextClosed):
        first.context.invoke(total, fedbroker.data("rows"))
    assert total(fedbroker.data("rows")) == 4.0
    assert second.keys is not None
    second.close()
    second.close()
    assert default_context() is before
    assert "closed" in repr(second)
    assert sim.context.invoke(total, fedbroker.data("rows")) == 333.0


def test_silo_that_cannot_read_its_data_is_an_error_and_leaves_nothing(sim, broker, files):
    (files / "broken.parquet").write_text("no parquet")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(CohortError, match=r"silo 'a' ended: .*broken\.parquet"):
        fedbroker.simulate({"a": files / "broken.parquet"}, cohort="broken", broker=broker.url)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_the_reference_simulates_from_a_grouped_frame(sim, broker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("flights.csv").write_text("origin,minutes\nEWR,1\nJFK,2\nEWR,4\n")
    (program,) = blocks("docs/api.md", "python")
    there = {"pandas": pd, "fedbroker": fedbroker, "total": total}
    printed: list[object] = []
    exec(program.replace("(silos)", f"(silos, broker={broker.url!r})"), {**there, "print": printed.append})
    assert printed == [7.0]


@pytest.fixture
def temporary(monkeypatch):
    """Set a directory for temporary files that is this test's own; its path is short, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="simulate-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


def test_program_of_the_first_page_runs_to_its_end_and_leaves_nothing(temporary, tmp_path):
    program, simulated = blocks("docs/index.md", "python")
    assert [program, simulated] == blocks("README.md", "python")
    (tmp_path / "lga.csv").write_text("minutes\n9\n")
    code = program.partition("fedbroker.set_sync_execution_context")[0] + simulated
    (tmp_path / "program.py").write_text(code.replace('"lga.csv"', repr(str(tmp_path / "lga.csv"))))
    with start_program(tmp_path / "program.py") as running:
        assert running.output(PROCESS_SECONDS) == "6.0\n"
    assert list(temporary.iterdir()) == []


CELL = """
import fedbroker
sim = fedbroker.simulate({"a": {"x": [1.0, 2.0]}, "b": {"x": [3.0]}})
print(*(silo.pid for silo in sim.silos.values()))
"""


def test_a_cell_that_runs_again_and_a_killed_kernel_leave_nothing(temporary):
    manager = KernelManager(transport="ipc", ip=str(temporary / "kernel"))
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(PROCESS_SECONDS)
        first, second = pids(execute(client, CELL)), pids(execute(client, CELL))
        assert len(first) == len(second) == 2
        assert not any(psutil.pid_exists(pid) for pid in first)
        assert len(list(temporary.glob("fedbroker-broker-*"))) == 1
        family = psutil.Process(manager.provisioner.pid).children(recursive=True)
        assert {*second} < {one.pid for one in family}
        manager.signal_kernel(signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, family)), 20)
        wait_until(lambda: not list(temporary.glob("fedbroker-*")), 10)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", text)]


def execute(client, code: str) -> str:
    """Run a cell; return its standard output."""
    printed: list[str] = []

    def hook(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=PROCESS_SECONDS)
    assert reply["content"]["status"] == "ok", reply["content"].get("evalue")
    return "".join(printed)
