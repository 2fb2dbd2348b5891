"""The broker's URL of ``fedbroker``: from an option, the environment, or a file that the environment names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.wait import PROCESS_SECONDS


@pytest.fixture
def run(broker, tmp_path):
    (tmp_path / "url").write_text(broker.url + "\n")

    def run(*arguments, **variables):
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
        command = [sys.executable, "-m", "fedbroker.cli", "cohort", "show", "nobody", "--json", *arguments]
        return subprocess.run(command, env=ours | variables, capture_output=True, text=True, timeout=PROCESS_SECONDS)

    return run


def test_url_comes_from_option_environment_or_file(run, broker, tmp_path):
    file = str(tmp_path / "url")
    for done in (
        run("--url", broker.url, FEDBROKER_URL_FILE="/none"),
        run(FEDBROKER_URL=broker.url),
        run(FEDBROKER_URL_FILE=file),
        run(FEDBROKER_URL_FILE="url", CREDENTIALS_DIRECTORY=str(tmp_path)),
    ):
        assert done.returncode in (0, 4), done.stderr  # no coordinator is connected
        assert "FB2" not in done.stderr


def test_missing_url_file_is_a_one_line_error(run):
    done = run(FEDBROKER_URL_FILE="/no/such/file")
    assert done.returncode == 2
    assert done.stderr.startswith("error: [FB1001] FEDBROKER_URL_FILE: file /no/such/file does not exist")
    assert len(done.stderr.splitlines()) == 1


def test_error_of_a_missing_url_names_its_variables():
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    for command in (["doctor"], ["cohort", "list"]):
        line = [sys.executable, "-m", "fedbroker.cli", *command]
        done = subprocess.run(line, env=ours, capture_output=True, text=True, timeout=PROCESS_SECONDS)
        assert done.returncode == 2
        assert done.stderr == (
            "error: [FB1002] --url is missing; give it, or set FEDBROKER_URL or FEDBROKER_URL_FILE\n"
        )
