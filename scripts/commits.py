"""Check the commits since a fixed one: subject, body, no merges. CONTRIBUTING.md states the convention.

``make check`` runs it. A clone without the history, such as a shallow one or an archive, has nothing to check.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START: Final = "ba90ce757a8eaf6ca46275db2fc6386b0bd73acd"
"""The convention holds after this commit; the subjects of earlier ones are longer."""
LONGEST: Final = 60
"""Characters of a subject: ``git log --oneline`` shows it whole in a terminal of 80 columns, with hash and branch."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit.

    Attributes:
        name: its abbreviated hash.
        parents: their hashes.
        message: subject and body.
    """

    name: str
    parents: Sequence[str]
    message: str


def faults(commit: Commit) -> Iterator[str]:
    """Yield the violations of the convention."""
    subject, _, rest = commit.message.partition("\n")
    if len(commit.parents) > 1:
        yield "is a merge: rebase instead"
    if not subject.strip():
        yield "has no subject"
    if len(subject) > LONGEST:
        yield f"has a subject of {len(subject)} characters: at most {LONGEST}"
    if subject.endswith("."):
        yield "has a subject that ends with a period"
    if rest.strip() and not rest.startswith("\n"):
        yield "has no empty line after its subject"
    if not rest.strip():
        yield "has no body: say why"


def commits(directory: Path, start: str) -> list[Commit]:
    """Return the commits after ``start``, newest first; none where the history does not reach back to it."""
    if shutil.which("git") is None or git(directory, "merge-base", "--is-ancestor", start, "HEAD").returncode:
        return []
    log = git(directory, "log", "--format=%h%x1f%P%x1f%B%x1e", f"{start}..HEAD").stdout
    records = [record.strip("\n").split("\x1f") for record in log.split("\x1e") if record.strip()]
    return [Commit(name, parents.split(), message.strip()) for name, parents, message in records]


def git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in a directory."""
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def main(directory: Path, start: str = START) -> int:
    """Print each violation in a line; return 1 if one was found."""
    found = [(commit, fault) for commit in commits(directory, start) for fault in faults(commit)]
    for commit, fault in found:
        print(f"commit {commit.name} {fault}: {commit.message.partition(chr(10))[0]}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1]))
