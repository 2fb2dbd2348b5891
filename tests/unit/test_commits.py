"""The commit convention is checked after a fixed commit, if the history contains it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.commits import LONGEST, START, Commit, commits, faults, main
from tests.support.pages import ROOT
from tests.support.wait import PROCESS_SECONDS

BODY = "\n\nThe reason."


@pytest.fixture
def repository(tmp_path):
    """Return a function that commits with a message and returns the hash."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=PROCESS_SECONDS
        ).stdout.strip()

    git("init", "-q", "-b", "main")

    def commit(message: str) -> str:
        git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", message)
        return git("rev-parse", "HEAD")

    commit.git = git
    return commit


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"Add a check{BODY}", []),
        (f"{'x' * LONGEST}{BODY}", []),
        (f"{'x' * (LONGEST + 1)}{BODY}", ["has a subject of 61 characters: at most 60"]),
        (f"Add a check.{BODY}", ["has a subject that ends with a period"]),
        ("Add a check", ["has no body: say why"]),
        ("Add a check\nThe reason.", ["has no empty line after its subject"]),
    ],
)
def test_subject_is_short_and_has_a_body(message, expected):
    assert list(faults(Commit("1", ("2",), message))) == expected


def test_merge_is_refused():
    assert list(faults(Commit("1", ("2", "3"), f"Add a check{BODY}"))) == ["is a merge: rebase instead"]


def test_only_commits_after_the_start_are_checked(repository, tmp_path, capsys):
    repository("an old commit without a body.")
    start = repository("another one.")
    assert main(tmp_path, start) == 0
    repository(f"Add a check{BODY}")
    assert main(tmp_path, start) == 0
    last = repository("Forget the body")
    assert [one.message for one in commits(tmp_path, start)] == ["Forget the body", f"Add a check{BODY}"]
    assert main(tmp_path, start) == 1
    assert capsys.readouterr().err == f"commit {last[:7]} has no body: say why: Forget the body\n"


def test_merge_in_the_history_is_found(repository, tmp_path):
    start = repository(f"Start{BODY}")
    repository.git("checkout", "-q", "-b", "side")
    repository(f"Change the side{BODY}")
    repository.git("checkout", "-q", "main")
    repository(f"Change the main line{BODY}")
    repository.git("merge", "-q", "--no-ff", "-m", f"Merge the side{BODY}", "side")
    assert [list(faults(one)) for one in commits(tmp_path, start)].count(["is a merge: rebase instead"]) == 1


def test_clone_without_the_history_is_not_checked(repository, tmp_path):
    repository("Forget the body")
    assert main(tmp_path, START) == 0
    assert main(tmp_path.parent, START) == 0


def test_makefile_runs_the_check():
    assert "scripts/commits.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert Path(ROOT / "scripts" / "commits.py").is_file()
