"""The directory that `make build` hands over, and stand-ins for what its scripts are given."""

from __future__ import annotations

import importlib.metadata
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Runs a program as another version of Python would see itself.
_OTHER_PYTHON = """#!/bin/sh
exec {python} -c 'import platform, sys
platform.python_version = lambda: "{version}"
sys.version_info = ({numbers}, "final", 0)
exec(sys.argv[1])' "$2"
"""


def build(directory: Path, **environment: str) -> Path:
    """Make the directory by scripts/build.sh; return it."""
    subprocess.run(
        ["sh", "-c", 'umask "$UMASK"; exec "$0" "$1"', ROOT / "scripts" / "build.sh", directory],
        env={"PATH": "/usr/bin:/bin", "UMASK": "022"} | environment,
        check=True,
        capture_output=True,
        timeout=100,
    )
    return directory


def other_python(path: Path, version: str) -> Path:
    """Write an interpreter that says that it is of another version; return its path."""
    numbers = version.replace(".", ", ")
    path.write_text(_OTHER_PYTHON.format(python=shlex.quote(sys.executable), version=version, numbers=numbers))
    path.chmod(0o755)
    return path


def tff_wheel(directory: Path, binary: bytes = b"#!/bin/sh\n") -> Path:
    """Write a wheel with the files of the installed tensorflow-federated, but another C++ runtime; return its path."""
    tff = importlib.metadata.distribution("tensorflow-federated")
    path = directory / f"tensorflow_federated-{tff.version}-py3-none-manylinux_2_31_x86_64.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in tff.files or ():
            if file.name == "worker_binary":
                wheel.writestr(file.as_posix(), binary)
            elif file.suffix != ".pyc":
                wheel.write(file.locate(), file.as_posix())
    return path


def runtime_wheel(source: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the script that makes fedbroker-runtime, by an interpreter without any package."""
    command = [sys.executable, "-I", "-S", ROOT / "handover" / "runtime_wheel.py", source, directory]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
