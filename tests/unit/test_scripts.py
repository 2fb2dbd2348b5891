"""The set-up script does its work once, in a tree of the test, with a uv that only records its calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / "handover" / "install.sh", ROOT / ".ci" / "run"]
TOOLS = "bash sh cat cut dirname env flock head id mkdir printf rm sha256sum sort tail".split()  # noqa: SIM905

# It makes an environment whose Python is ours, and records its arguments.
UV = """#!/bin/sh
echo "$*" >>"$NOTES"
case "$1" in
    --version) echo "uv 0.13.9 (here)" ;;
    venv) for last; do :; done
        mkdir -p "$last/bin"
        printf '#!/bin/sh\\nPYTHONPATH=%s exec %s "$@"\\n' "$SOURCE" "$PYTHON" >"$last/bin/python"
        chmod +x "$last/bin/python" ;;
esac
"""


class Tree:
    """A copy of the files that the set-up reads, and a PATH with only the tools that it may use."""

    def __init__(self, root: Path) -> None:
        self.root = root / "tree"
        self.bin = root / "bin"
        self.notes = root / "notes"
        for folder in ("scripts", "requirements", "core", "workers"):
            (self.root / folder).mkdir(parents=True)
        for script in SCRIPTS[:-1]:
            shutil.copy(script, self.root / "scripts")
        projects = ("pyproject.toml", "core/pyproject.toml", "core/hatch_build.py", "workers/pyproject.toml")
        for name in (*projects, "requirements/dev.txt", "requirements/uv.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin.mkdir()
        for tool in [*TOOLS, "erl", "epmd", "chmod"]:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)
        (self.bin / "uv").write_text(UV)
        (self.bin / "uv").chmod(0o755)

    def set_up(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.notes.write_text("")
        known = {"PATH": str(self.bin), "NOTES": str(self.notes), "PYTHON": sys.executable, "SOURCE": str(ROOT)}
        command = [str(self.root / "scripts" / "setup.sh"), *arguments]
        return subprocess.run(command, env=known | environment, capture_output=True, text=True, timeout=PROCESS_SECONDS)

    def calls(self) -> list[str]:
        return [line for line in self.notes.read_text().splitlines() if line != "--version"]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_and_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)
    shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", str(script)], check=True)


def test_set_up_makes_the_locked_environment_in_the_tree(tree: Tree, tmp_path: Path) -> None:
    elsewhere = tmp_path / "active"
    done = tree.set_up(VIRTUAL_ENV=str(elsewhere), CONDA_PREFIX=str(elsewhere))
    assert done.returncode == 0, done.stderr
    made, synced, installed = tree.calls()
    assert made.endswith(str(tree.root / ".venv"))
    for call in (synced, installed):
        assert f"--python {tree.root}/.venv/bin/python" in call
    assert "--require-hashes" in synced
    assert "requirements/dev.txt" in synced
    assert "--no-deps --no-build-isolation --offline -e . -e core -e workers" in installed
    assert not elsewhere.exists()


def test_second_set_up_is_quick_and_changes_nothing(tree: Tree) -> None:
    assert tree.set_up().returncode == 0
    began = time.monotonic()
    again = tree.set_up()
    assert time.monotonic() - began < 2
    assert again.returncode == 0
    assert again.stderr == ""
    assert tree.notes.read_text() == ""


def test_set_up_follows_the_requirements(tree: Tree) -> None:
    assert tree.set_up().returncode == 0
    with (tree.root / "requirements" / "dev.txt").open("a") as file:
        file.write("# changed\n")
    assert tree.set_up().returncode == 0
    assert [call.split()[:2] for call in tree.calls()] == [["pip", "sync"], ["pip", "install"]]


def test_moved_tree_is_set_up_again(tree: Tree) -> None:
    assert tree.set_up().returncode == 0
    tree.root = tree.root.rename(tree.root.with_name("moved"))
    assert tree.set_up().returncode == 0
    assert tree.calls() != []


def test_missing_broker_is_an_error(tree: Tree) -> None:
    done = tree.set_up(FEDBROKER_RABBITMQ_HOME=str(tree.root))
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("set-up: error: there is no RabbitMQ server")
    assert "FEDBROKER_RABBITMQ_HOME" in said


def test_test_packages_are_installed_only_for_tests(tree: Tree) -> None:
    assert tree.set_up().returncode == 0
    done = tree.set_up("tests")
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()
    assert said[0] == "set-up: installing prometheus"
    assert said[-1].startswith("set-up: error: there is no Prometheus")
    for tool in ("prometheus", "promtool", "chromium", "systemd-analyze"):
        assert not (tree.bin / tool).is_symlink()  # to one of this machine's, which would be overwritten
        (tree.bin / tool).write_text("#!/bin/sh\n")
        (tree.bin / tool).chmod(0o755)
    again = tree.set_up("tests")
    assert (again.returncode, again.stderr) == (0, "")


def test_missing_uv_and_pip_is_an_error(tree: Tree) -> None:
    (tree.bin / "uv").unlink()
    (tree.bin / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tree.bin / "python3").chmod(0o755)
    done = tree.set_up()
    assert done.returncode != 0
    assert "python3-venv" in done.stderr
    assert not (tree.root / ".venv").exists()


def test_make_help_lists_every_recipe() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipes = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE))
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in said.splitlines() if line.startswith("  make ")} == recipes
    assert {"demo", "test", "check", "lock", "bench", "help"} <= recipes


@pytest.mark.parametrize(
    ("together", "alone", "expected"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (2, 1, 2), (0, 5, 0), (5, 0, 0), (5, 1, 1), (1, 5, 1), (5, 5, 5)],
)
def test_suite_fails_if_either_part_fails(tmp_path: Path, together: int, alone: int, expected: int) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "test.sh", tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"--alone no"*"-k name") exit {together};; '
        f'*"--alone only -k name") exit {alone};; esac\nexit 99\n'
    )
    python.chmod(0o755)
    assert subprocess.run([script, "-k", "name"], check=False).returncode == expected
