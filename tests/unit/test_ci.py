"""The environment and result of continuous integration; `make` is a stand-in that records its calls."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.wait import PROCESS_SECONDS, wait_until

RUN = Path(__file__).parents[2] / ".ci" / "run"
ALL = ["clean", "check", "demo", "test"]
MAKE = """#!/bin/sh
if command -v brought-along; then exit 4; fi
echo "$1 $HOME $UV_CACHE_DIR $(ls -A "$HOME" "$HOME/.config" | tr '\\n' ' ')" >> "$NOTES"
if [ "$1" != clean ]; then mkdir -p "$UV_CACHE_DIR/$1" "$HOME/.cache"; fi
case " $SLOW " in *" $1 "*) : > "$NOTES.slow"; exec sleep 60 ;; esac
case " $FAILING " in *" $1 "*) exit 3 ;; esac
"""


class Clone:
    """A directory with `.ci/run`, a home with settings and caches, and a place for temporary files."""

    def __init__(self, root: Path) -> None:
        self.script = root / "clone" / ".ci" / "run"
        self.home, self.temporary, self.notes = root / "home", root / "tmp", root / "notes"
        self.script.parent.mkdir(parents=True)
        shutil.copy(RUN, self.script)
        self.temporary.mkdir()
        for directory in (".config/pip", ".config/other", ".cache/uv", ".local/bin"):
            (self.home / directory).mkdir(parents=True)
        make, other = (root / "bin" / name for name in ("make", "brought-along"))
        make.parent.mkdir()
        for command in (make, other):
            command.write_text(MAKE)
            command.chmod(0o755)
        self.environ = {
            "PATH": f"{other.parent}:{os.environ['PATH']}",
            "MAKE": str(make),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "NOTES": str(self.notes),
            "UV_CACHE_DIR": str(self.home / ".cache" / "uv"),
        }

    def run(self, **environ: str) -> int:
        return subprocess.run(
            [self.script], env=self.environ | environ, timeout=PROCESS_SECONDS, check=False
        ).returncode

    def calls(self) -> list[list[str]]:
        return [line.split() for line in self.notes.read_text().splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_ci_starts_with_an_empty_home_and_package_cache(clone: Clone) -> None:
    assert clone.run() == 0
    assert [call[0] for call in clone.calls()] == ALL
    _, home, packages, *found = clone.calls()[0]
    assert found == [f"{home}:", ".config", f"{home}/.config:", "pip"]
    for directory in (home, packages):
        assert directory.startswith(f"{clone.temporary}/")
    assert {(call[1], call[2]) for call in clone.calls()} == {(home, packages)}
    assert not list(clone.temporary.iterdir())
    assert (clone.home / ".cache" / "uv").is_dir()


def test_ci_does_not_find_commands_installed_elsewhere(clone: Clone) -> None:
    assert shutil.which("brought-along", path=clone.environ["PATH"])
    assert clone.run() == 0  # the stand-in fails if it finds it


@pytest.mark.parametrize("failing", ["check", "demo", "test", "check demo test"])
def test_ci_runs_all_steps_and_fails_if_one_fails(clone: Clone, failing: str) -> None:
    assert clone.run(FAILING=failing) == 3
    assert [call[0] for call in clone.calls()] == ALL
    assert not list(clone.temporary.iterdir())


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_ended_ci_leaves_no_files(clone: Clone, ending: signal.Signals) -> None:
    with subprocess.Popen([clone.script], env=clone.environ | {"SLOW": "demo"}, start_new_session=True) as process:
        try:
            wait_until(Path(f"{clone.notes}.slow").exists, 30)
            os.killpg(process.pid, ending)  # as a terminal or a supervisor does
            assert process.wait(30) == 128 + ending
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert [call[0] for call in clone.calls()] == ["clean", "check", "demo"]
    assert not list(clone.temporary.iterdir())
