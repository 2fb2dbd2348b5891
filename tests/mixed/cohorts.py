"""Cohorts whose silos and program come from different installations; what they compute, bit by bit."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.airports import data
from tests.support.wait import wait_until
from tests.support.worker import write_settings

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "mixed" / "program.py"
SECONDS = 300


class Failed(Exception):
    """A part is missing, an installation failed or results differ; the message is for people."""


@dataclass(frozen=True)
class Installation:
    """Where fedbroker runs from: the command of a silo, that of a Python for programs, and their variables."""

    silo: Sequence[str]
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)


def run(command: Sequence[str | Path], directory: Path = ROOT, **variables: str) -> str:
    """Run a command that must succeed; return its output."""
    done = subprocess.run(
        command, env=os.environ | variables, cwd=directory, capture_output=True, text=True, timeout=SECONDS * 3
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def computed(
    url: str, rows: Path, cohort: str, program: Installation, silos: Sequence[Installation]
) -> list[tuple[str, list[int], str]]:
    """Return dtype, shape and digest of every array that a program computes on three silos."""
    with _running(url, rows, dict(zip(data.AIRPORTS, silos, strict=True)), cohort):
        said = run([program.python, PROGRAM, url, cohort], rows, **program.variables)
    result = json.loads(said.splitlines()[-1])
    expected = program.variables.get("PYTHONPATH", str(ROOT)).split(os.pathsep)[0]
    if not result["from"].startswith(expected):
        raise Failed(f"the program ran {result['from']}, not {expected}")
    return result["arrays"]


@contextlib.contextmanager
def _running(url: str, rows: Path, silos: Mapping[str, Installation], cohort: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, installation in silos.items():
            settings = write_settings(rows / name, url, cohort, data.SOURCES, data.POLICY, name=name)
            ready = settings.with_name(f"ready-{cohort}")
            command = [*installation.silo, "run", "--config", settings, "--ready-file", ready, "--until-eof"]
            log = stack.enter_context((rows / name / "log").open("w+"))
            # Not in this directory, of which Python would import.
            process = subprocess.Popen(
                command,
                cwd=rows / name,
                env=os.environ | installation.variables,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
            stack.callback(_stop, process)
            wait_until(lambda ready=ready, process=process: ready.exists() or process.poll() is not None, 60)
            if not ready.exists():
                log.seek(0)
                raise Failed(f"the silo {name} ({' '.join(installation.silo)}) ended: {log.read()[-2000:]}")
        yield


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.communicate(timeout=60)
