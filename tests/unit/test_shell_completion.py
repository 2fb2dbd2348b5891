"""``--install-completion``: a bash of its own completes commands and options of both command lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import PROCESS_SECONDS

# On a tab, bash finds the function of the command and calls it with the words.
COMPLETE = """
source ~/.bashrc
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
"$function" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Install both completions into a home directory, one of them twice."""
    home = tmp_path_factory.mktemp("home")
    (home / ".bashrc").write_text("alias mine=true\n")
    for module in ("fedbroker.cli", "fedbroker_worker", "fedbroker.cli"):
        command = [sys.executable, "-m", module, "--install-completion", "--shell", "bash"]
        environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS, env=environ)
        assert done.returncode == 0, done.stderr
        assert "Restart your shell or run: source ~/.bashrc" in done.stdout
    return home


def completed(home: Path, *words: str) -> set[str]:
    command = ["bash", "--norc", "-c", COMPLETE, "bash", *words]
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS, env=environ)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_startup_file_is_kept_and_loads_each_command_once(home):
    lines = (home / ".bashrc").read_text().splitlines()
    assert lines[0] == "alias mine=true"
    assert len([line for line in lines if line.endswith('/fedbroker"')]) == 1
    assert len([line for line in lines if line.endswith('/fedbroker-silo"')]) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fedbroker", "do"], {"doctor"}),
        (["fedbroker", ""], {"admin", "broker", "cohort", "curves", "dead-letters", "doctor", "key", "new", "version"}),
        (["fedbroker", "cohort", "sh"], {"show"}),
        (["fedbroker", "curves", "--m"], {"--metric"}),
        (["fedbroker-silo", "che"], {"check"}),
        (["fedbroker-silo", "run", "--con"], {"--config"}),
    ],
)
def test_bash_completes(home, words, expected):
    found = completed(home, *words)
    assert expected <= found
    assert all(one.startswith(words[-1]) for one in found)
