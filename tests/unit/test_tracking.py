"""Trackers: what they write is read back with the packages that it is for, also after a program was resumed."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedbroker.errors import UsageError
from fedbroker.tracking import CSV, MLflow, TensorBoard
from fedbroker.tracking.curves import read_curves
from tests.support.wait import PROCESS_SECONDS

METRICS = {round: {"train/loss": 1 / round, "accuracy": 1 - 0.5**round} for round in range(1, 6)}


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    """Return what TensorBoard itself shows."""
    events = EventAccumulator(str(directory), purge_orphaned_data=True)
    events.Reload()
    return [(one.step, round(one.value, 6)) for one in events.Scalars(tag)]


def test_csv_has_a_row_for_each_round(tmp_path):
    path = tmp_path / "new" / "metrics.csv"
    csv = CSV(path)
    csv(1, {"loss": 0.5})
    assert path.read_text() == "round,loss\n1,0.5\n"
    csv(2, {"loss": float("nan"), 'a,"b"': 1})
    csv(2, {"eval/loss": 0.25})
    csv(3, {"loss": 0.125})
    assert path.read_text() == 'round,loss,"a,""b""",eval/loss\n1,0.5,,\n2,nan,1.0,0.25\n3,0.125,,\n'
    assert list(path.parent.iterdir()) == [path]


def test_csv_of_a_resumed_program_has_each_round_once(tmp_path):
    path = tmp_path / "metrics.csv"
    first = CSV(path)
    for number in (1, 2, 3, 4):
        first(number, METRICS[number])
    with path.open("a") as file:
        file.write("5,0.1")  # killed while it wrote
    resumed = CSV(path)
    for number in (3, 4):
        resumed(number, {"train/loss": -1.0})
    assert read_curves(path)["train/loss"] == [(1, 1.0), (2, 0.5), (3, -1.0), (4, -1.0)]
    assert read_curves(path)["accuracy"] == [(1, 0.5), (2, 0.75)]
    resumed(2, {"train/loss": 7.0})  # a cell that runs again
    assert read_curves(path)["train/loss"] == [(1, 1.0), (2, 7.0)]


@pytest.mark.parametrize("text", ["key,loss\n1,2\n", "round,loss\nfirst,2\n"])
def test_csv_does_not_touch_a_file_of_another_kind(text, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"metrics\.csv has .*; give another file"):
        CSV(path)
    assert path.read_text() == text


def test_tensorboard_reads_our_event_files(tmp_path):
    with TensorBoard(tmp_path / "logs") as tensorboard:
        for number, metrics in METRICS.items():
            tensorboard(number, metrics)
        assert len(scalars(tmp_path / "logs", "accuracy")) == len(METRICS)  # before it is closed
    expected = [(number, round(1 / number, 6)) for number in METRICS]
    assert scalars(tmp_path / "logs", "train/loss") == expected
    curves = read_curves(tmp_path / "logs")
    assert list(curves) == ["train/loss", "accuracy"]
    assert [(at, round(value, 6)) for at, value in curves["train/loss"]] == expected


def test_tensorboard_of_a_resumed_program_has_each_round_once(tmp_path):
    for start, value in ((1, 1.0), (3, 2.0)):
        with TensorBoard(tmp_path) as tensorboard:
            for number in range(start, 5):
                tensorboard(number, {"loss": value})
    expected = [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    assert scalars(tmp_path, "loss") == expected
    assert read_curves(tmp_path)["loss"] == expected


def test_a_cut_event_file_is_read_up_to_the_cut(tmp_path):
    with TensorBoard(tmp_path / "eval") as tensorboard:
        for number in (1, 2):
            tensorboard(number, {"loss": 4.0})
    (file,) = (tmp_path / "eval").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert read_curves(tmp_path) == {"eval/loss": [(1, 4.0)]}


def test_mlflow_keeps_the_metrics_of_a_run_and_of_its_continuation(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    with MLflow("digits", tracking_uri=uri, run_name="first", params={"rate": 0.1}) as tracker:
        assert tracker.run_id is None
        tracker(1, {"train/loss": 0.5, "f1 (macro)": 0.25})
        client = MlflowClient(tracking_uri=uri)
        assert client.get_run(tracker.run_id).info.status == "RUNNING"
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "first", {"rate": "0.1"})
    assert run.data.metrics == {"train/loss": 0.5, "f1 _macro_": 0.25}
    resumed = MLflow("digits", tracking_uri=uri, run_id=tracker.run_id)
    resumed(2, {"train/loss": 0.125})
    resumed.close(KeyboardInterrupt())
    history = [(one.step, one.value) for one in client.get_metric_history(tracker.run_id, "train/loss")]
    assert history == [(1, 0.5), (2, 0.125)]
    assert client.get_run(tracker.run_id).info.status == "FAILED"
    assert len(client.search_experiments(filter_string="name = 'digits'")) == 1


def test_trackers_need_neither_tensorflow_nor_their_extras():
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('mlflow', 'tensorboard', 'tensorflow')))\n"  # their import fails
        "from fedbroker.tracking import CSV, MLflow, TensorBoard\n"
        "for kind in (MLflow, TensorBoard):\n"
        "    try:\n"
        "        kind('x')\n"
        "    except Exception as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert done.stdout.splitlines() == [
        "[FB1002] mlflow is not installed; pip install 'fedbroker[mlflow]'",
        "[FB1002] tensorboard is not installed; pip install tensorboard",
    ], done.stderr


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("curves") / "metrics.csv"
    csv = CSV(path)
    for number in range(1, 31):
        csv(number, {"train/loss": 1 / number, "eval/loss": 2 / number, "\x1b[31mred": number / 0.5})
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedbroker.cli", "curves", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)


def test_plots_are_plain_where_the_output_is_no_terminal(metrics):
    printed = run(metrics, "--metric", "loss", "--height", 9).stdout
    assert "\x1b" not in printed
    lines = printed.splitlines()
    assert len(lines) == 2 * 9
    assert {len(line) for line in lines} == {80}
    assert lines[0].strip() == "train/loss: 0.0333333 in round 30"
    assert lines[9].strip() == "eval/loss: 0.0666667 in round 30"
    assert lines[8].split() == ["1", "7", "13", "18", "24", "30"]
    # The curve falls: its first point is at the top, its last one at the bottom.
    drawn = [line.partition("┤")[2] or line.partition("│")[2] for line in lines[2:7]]
    assert drawn[0].strip(" │")
    assert len(drawn[0].rstrip(" │")) < len(drawn[-1].rstrip(" │"))


def test_plots_have_the_width_that_is_asked_for_and_harmless_names(metrics):
    printed = run(metrics, "--width", 132).stdout
    assert {len(line) for line in printed.splitlines()} == {132}
    assert "\x1b" not in printed
    assert "[31mred: 60 in round 30" in printed


def test_plots_take_the_terminals_width_and_colours(metrics):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedbroker.cli", "curves", str(metrics), "--metric", "train/loss"]
    os.set_blocking(ours, False)
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"COLUMNS": "57"}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.run(command, stdout=theirs, timeout=PROCESS_SECONDS, env=environ, check=True)
        os.close(theirs)
        printed = (terminal.read(65536) or b"").decode()
    assert done.returncode == 0
    assert "\x1b[" in printed
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in printed.splitlines()]
    assert {len(line) for line in plain if line} == {57}


def test_curves_as_json(metrics):
    curves = json.loads(run(metrics, "--metric", "eval/loss", "--json").stdout)
    assert curves == {"eval/loss": [[number, 2 / number] for number in range(1, 31)]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--metric", "los"], "no metric is named 'los'; available: train/loss, eval/loss, "),
        (["--width", "3"], "--width"),
    ],
)
def test_a_wrong_option_is_one_line(metrics, arguments, expected):
    done = run(metrics, *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_path_without_curves_is_one_line(tmp_path):
    (tmp_path / "empty.csv").write_text("round,loss\n")
    for path, expected in (
        (tmp_path, "has no event files; give a CSV file, or a directory of event files"),
        (tmp_path / "none.csv", "does not exist"),
        (tmp_path / "empty.csv", "has no numbers; wait for the first round"),
    ):
        with pytest.raises(UsageError, match=re.escape(expected)):
            read_curves(path)
