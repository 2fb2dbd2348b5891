"""``fedbroker new``: exactly what its README says runs, and its notebook in a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.pages import FENCE, ROOT
from tests.support.shell import Shell
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MEAN = "mean delay: 19.433 minutes"


def fedbroker(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedbroker.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    directory = tmp_path_factory.mktemp("new") / "delays"
    done = fedbroker("new", directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"run it: cd {directory} && python program.py"
    return directory


def test_files_are_written_and_named(tmp_path):
    done = fedbroker("new", tmp_path, "--json")  # it exists, and is empty
    files = json.loads(done.stdout)["files"]
    assert sorted(files) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert {"README.md", "program.py", "notebook.ipynb", "silo.toml", "data/ewr.csv"} < set(files)


def test_existing_files_are_never_touched(tmp_path):
    (tmp_path / "mine").write_text("precious")
    for path, expected in ((tmp_path, "is not empty; name a new directory"), (tmp_path / "mine", "is a file")):
        done = fedbroker("new", path)
        assert done.returncode == 2
        assert expected in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine").read_text() == "precious"


def test_readme_runs_from_its_first_command_to_its_last(project, tmp_path):
    blocks = [found["text"] for found in FENCE.finditer((project / "README.md").read_text())]
    first, silos = blocks
    assert first == "python program.py\n"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    environ |= {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(ROOT / ".venv" / "bin"), environ["PATH"]]),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    shell = Shell(project, environ)
    try:
        printed = shell.run(first, PROCESS_SECONDS)
        assert printed.startswith("takes   {float32[?]}@CLIENTS\n"), shell.said
        assert printed.endswith(f"{MEAN}\n"), shell.said
        assert shell.run(silos, PROCESS_SECONDS).endswith(f"{MEAN}\n"), shell.said
    finally:
        shell.close()


def test_notebook_runs_in_a_kernel(project):
    notebook = nbformat.read(project / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(
        notebook, timeout=PROCESS_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(project)}}
    )
    client.execute()
    printed = "".join(output.text for output in notebook.cells[-1].outputs if output.get("name") == "stdout")
    assert printed.endswith(f"{MEAN}\n")
