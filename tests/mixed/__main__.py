"""Compares cohorts of different installations: every array that they compute must have the same bits.

    python -m tests.mixed pythons          silos on Python 3.11, 3.12 and 3.13, each installed by install.sh
    python -m tests.mixed versions REV     silos of an older commit with today's program, and the reverse

The first takes the Pythons called python3.11 and so on, on PATH, or those that FEDBROKER_PYTHONS names, separated by
colons. A Python that is not found is an error. Installations are in .cache/mixed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from examples.airports import data
from fedbroker.broker import PrivateBroker
from tests.mixed.cohorts import ROOT, Failed, Installation, computed, run

CACHE = ROOT / ".cache" / "mixed"
VERSIONS = ("3.11", "3.12", "3.13")
TODAY = Installation((sys.executable, "-m", "fedbroker_worker"), variables={"PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}"})

Cohorts: TypeAlias = Mapping[str, tuple[Installation, Sequence[Installation]]]
"""The program and three silos of each cohort, by a name for people."""

# Prints the versions that could decide about arithmetic and encoding.
ABOUT = """
import json, platform
from importlib.metadata import version
print(json.dumps({"python": platform.python_version()} | {name: version(name) for name in ("numpy", "protobuf")}))
"""


def main(arguments: list[str]) -> int:
    """Compare as the arguments say; return the exit code."""
    try:
        match arguments:
            case ["pythons"]:
                silos = [installed(version, python) for version, python in pythons().items()]
                compare({"three silos on 3.11": (TODAY, silos[:1] * 3), "a silo on each Python": (TODAY, silos)})
            case ["versions", revision] if revision:
                with tempfile.TemporaryDirectory(prefix="fedbroker-older-") as directory:
                    compare(with_older(revision, older(revision, Path(directory))))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except Failed as error:
        print(f"mixed: failed: {error}", file=sys.stderr)
        return 1
    return 0


def with_older(revision: str, old: Installation) -> Cohorts:
    """Return the combinations of today's silos and program with older ones."""
    return {
        "today's program and silos": (TODAY, [TODAY] * 3),
        f"silos of {revision}": (TODAY, [old] * 3),
        f"one silo of {revision}": (TODAY, [TODAY, old, TODAY]),
        f"the program of {revision}": (old, [TODAY] * 3),
    }


def compare(cohorts: Cohorts) -> None:
    """Compute on each cohort; raise Failed if the bits differ."""
    found = dict[str, list[tuple[str, list[int], str]]]()
    with tempfile.TemporaryDirectory(prefix="fedbroker-mixed-") as directory, PrivateBroker() as broker:
        rows = data.split(Path(directory))
        for number, (name, (program, silos)) in enumerate(cohorts.items()):
            found[name] = computed(broker.url, Path(directory), f"mixed-{number}", program, silos)
            print(f"mixed: {name}: {len(found[name])} arrays over {rows:,} flights", flush=True)
    first = next(iter(found.values()))
    if different := [name for name, arrays in found.items() if arrays != first]:
        raise Failed(f"other bits than the first: {', '.join(different)}")
    print("mixed: ok: every array has the same bits")


def pythons() -> dict[str, str]:
    """Return the path of each Python."""
    named = [one for one in os.environ.get("FEDBROKER_PYTHONS", "").split(os.pathsep) if one]
    found = dict[str, str]()
    for candidate in (*named, *(f"python{version}" for version in VERSIONS)):
        found.setdefault(version_of(candidate), shutil.which(candidate) or candidate)
    if missing := [version for version in VERSIONS if version not in found]:
        raise Failed(f"no Python {', '.join(missing)}: put python{missing[0]} on PATH, or name it in FEDBROKER_PYTHONS")
    return {version: found[version] for version in VERSIONS}


def version_of(python: str) -> str:
    """Return the version of an interpreter, such as 3.12; empty if it does not run."""
    program = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def installed(version: str, python: str) -> Installation:
    """Install a silo on a Python, as its administrator would."""
    environment = CACHE / version
    run([ROOT / "scripts" / "build.sh", CACHE / "handover"])
    run([CACHE / "handover" / "install.sh", "silo", environment], PYTHON=python)
    about = json.loads(run([environment / "bin" / "python", "-c", ABOUT]))
    print("mixed: silo with " + ", ".join(f"{name} {found}" for name, found in about.items()), flush=True)
    return Installation((str(environment / "bin" / "fedbroker-silo"),))


def older(revision: str, directory: Path) -> Installation:
    """Return the sources of another commit, run with the packages that are installed here."""
    run(["git", "archive", f"--output={directory / 'sources.tar'}", revision, "fedbroker", "workers", "examples"])
    shutil.unpack_archive(directory / "sources.tar", directory, filter="data")
    print(f"mixed: {run(['git', 'log', '-1', '--format=%h of %as: %s', revision]).strip()}", flush=True)
    return Installation(TODAY.silo, variables={"PYTHONPATH": f"{directory}:{directory / 'workers'}"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
