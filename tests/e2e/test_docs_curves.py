"""The page of curves: its program runs, and its plot is what the terminal shows."""

from __future__ import annotations

import os

import pytest
from mlflow import MlflowClient

from fedbroker.tracking import CSV
from tests.support.pages import ROOT, blocks
from tests.support.shell import Shell
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_program_of_the_page_draws_the_curve_of_the_page(tmp_path):
    program, *_ = blocks("docs/curves.md", "python")
    (commands,) = blocks("docs/curves.md", "sh")
    (plot,) = blocks("docs/curves.md", "text")
    (tmp_path / "train.py").write_text(program)
    environ = os.environ | {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(ROOT / ".venv" / "bin"), os.environ["PATH"]]),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    shell = Shell(tmp_path, environ)
    try:
        printed = shell.run(commands, PROCESS_SECONDS)
        assert [line.rstrip() for line in printed.splitlines()] == plot.splitlines(), shell.said
        events = shell.run("fedbroker curves logs --metric loss --width 64 --height 10")
        assert events == printed
    finally:
        shell.close()


async def test_fragments_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _, managers, mlflow = blocks("docs/curves.md", "python")
    there = {"CSV": CSV}
    exec(managers, there)
    await there["train_metrics_manager"].release({"loss": 1.0}, 1)
    await there["evaluation_metrics_manager"].release({"loss": 2.0}, 1)
    assert (tmp_path / "program.csv").read_text() == "round,train/loss,eval/loss\n1,1.0,2.0\n"
    exec(mlflow, there)
    run = MlflowClient(tracking_uri="file:mlruns").get_run(there["tracker"].run_id)
    assert (run.data.metrics, run.info.status) == ({"train/loss": 0.5}, "FINISHED")
