"""The directory that `make build` hands over is reproducible, and its scripts tell of a wrong machine at once."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from tests.support.handover import ROOT, build, other_python, runtime_wheel, tff_wheel

LOCK = re.compile(r"[\w.-]+\.txt")
INSTALL = ROOT / "handover" / "install.sh"


@pytest.fixture(scope="module")
def handover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build") / "handover")


def content(directory: Path) -> dict[str, tuple[int, bytes]]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in found
    }


def test_everybody_may_read_it_and_one_file_runs(handover: Path) -> None:
    modes = {name: mode for name, (mode, _) in content(handover).items()}
    assert modes.pop("install.sh") == 0o755
    assert set(modes.values()) == {0o644}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in handover.rglob("*") if path.is_dir())
    assert sum(name.endswith(".whl") for name in modes) == 3


def test_same_commit_gives_the_same_bytes(handover: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again", UMASK="077", SOURCE_DATE_EPOCH="1700000000")
    assert content(again) == content(handover)


def test_checksums_are_complete_and_right(handover: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=handover, check=True, timeout=60)
    listed = re.findall(r"^\w{64}  (\S+)$", (handover / "SHA256SUMS").read_text(), re.MULTILINE)
    assert sorted([*listed, "SHA256SUMS"]) == sorted(content(handover))


def test_every_role_has_hashed_locks_of_our_wheels(handover: Path) -> None:
    for role, names in (("silo", ("core", "worker")), ("coordinator", ("core",))):
        text = (handover / "requirements" / f"fedbroker-{role}.txt").read_text()
        wheels = dict(re.findall(r"^([\w-]+)==\S+ --hash=sha256:(\w{64})$", text, re.MULTILINE))
        expected = {*(f"fedbroker-{name}" for name in names), *(["fedbroker"] if role == "coordinator" else [])}
        assert set(wheels) == expected
        for name, digest in wheels.items():
            (path,) = (handover / "wheels").glob(f"{name.replace('-', '_')}-[0-9]*.whl")
            assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_no_registry_is_named(handover: Path) -> None:
    for name, (_, data) in content(handover).items():
        if not name.endswith(".whl") and name != "LICENSE":
            assert not re.search(rb"--(extra-)?index-url|--find-links \S*://|pypi|pythonhosted", data), name


def test_install_script_reads_only_files_that_are_there(handover: Path) -> None:
    for role in ("silo", "coordinator"):
        text = INSTALL.read_text().replace("$role", role)
        named = {*re.findall(r"\$here/([\w./-]+\w)", text), *(f"requirements/{name}" for name in LOCK.findall(text))}
        assert len(named) > 6
        assert sorted(name for name in named if not (handover / name).exists()) == []


def install(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {"PATH": "/usr/bin:/bin"} | environment
    return subprocess.run([INSTALL, *arguments], env=known, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("role", "version", "needs"),
    [
        ("silo", "3.9.18", "3.11 or newer"),
        ("silo", "3.10.13", "3.11 or newer"),
        ("coordinator", "3.12.1", "3.11"),
        ("coordinator", "3.9.18", "3.11"),
    ],
)
def test_wrong_python_is_told_in_one_line(tmp_path: Path, role: str, version: str, needs: str) -> None:
    python = other_python(tmp_path / "a python", version)
    done = install(role, tmp_path / "made", PYTHON=str(python))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"install: error: fedbroker's {role} needs Python {needs}; this is {version}\n"
    assert not (tmp_path / "made").exists()


def test_python_that_does_not_run_is_told(tmp_path: Path) -> None:
    done = install("silo", tmp_path / "made", PYTHON="python3.99")
    assert done.returncode == 1
    assert done.stderr == "install: error: fedbroker's silo needs Python 3.11 or newer; python3.99 does not run\n"


def test_first_python_that_fits_is_taken(tmp_path: Path) -> None:
    """Check that an old ``python3`` does not hide a newer Python: the next complaint is about the directory."""
    for name, version in (("python3", "3.9.18"), ("python3.13", "3.13.0")):
        other_python(tmp_path / name, version)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").touch()
    done = install("silo", tmp_path / "made", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.stderr.startswith(f"install: error: {tmp_path}/made exists and was not made by this script for a silo")
    assert os.listdir(tmp_path / "made") == ["mine"]


@pytest.mark.parametrize("arguments", [(), ("worker",), ("silo", "a", "b")])
def test_usage_is_printed(arguments: tuple[str, ...]) -> None:
    done = install(*arguments)
    assert done.returncode == 2
    assert "./install.sh silo [DIRECTORY]" in done.stdout


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    done = runtime_wheel(tff_wheel(tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_runtime_wheel_has_the_program_and_the_protocol(runtime: Path) -> None:
    name, version, _, tags = parse_wheel_filename(runtime.name)
    assert (name, str(version)) == ("fedbroker-runtime", "0.87.0")
    assert tags & set(sys_tags())
    with zipfile.ZipFile(runtime) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        program = wheel.getinfo("fedbroker_runtime/tensorflow_federated/data/worker_binary")
        metadata = wheel.read("fedbroker_runtime-0.87.0.dist-info/METADATA").decode()
        assert b"Apache License" in wheel.read("fedbroker_runtime-0.87.0.dist-info/LICENSE")
        assert f"Tag: {next(iter(tags))}" in wheel.read("fedbroker_runtime-0.87.0.dist-info/WHEEL").decode()
    assert stat.S_IMODE(program.external_attr >> 16) == 0o755
    assert "Requires-" not in metadata
    protos = {"array", "computation", "data_type", "executor"}
    package = "fedbroker_runtime/tensorflow_federated"
    expected = {f"{package}/proto/v0/{name}_pb2.py" for name in protos}
    expected |= {f"{package}/proto/__init__.py", f"{package}/proto/v0/__init__.py", "fedbroker_runtime/__init__.py"}
    assert files == expected | {program.filename}


def test_runtime_wheels_record_is_right(runtime: Path) -> None:
    with zipfile.ZipFile(runtime) as wheel:
        record = "fedbroker_runtime-0.87.0.dist-info/RECORD"
        rows = {name: (digest, size) for name, digest, size in csv.reader(wheel.read(record).decode().splitlines())}
        assert rows.pop(record) == ("", "")
        assert set(rows) == set(wheel.namelist()) - {record}
        for name, (digest, size) in rows.items():
            data = wheel.read(name)
            text = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={text}", str(len(data)))


def test_same_wheel_gives_the_same_runtime(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    done = runtime_wheel(next(tmp_path.glob("tensorflow_federated-*.whl")), tmp_path / "again")
    assert Path(done.stdout.strip()).read_bytes() == runtime.read_bytes()


def test_other_wheels_are_refused_in_one_line(tmp_path: Path, handover: Path) -> None:
    (core,) = (handover / "wheels").glob("fedbroker_core-*.whl")
    for path in (core, tmp_path / "nowhere.whl", Path(sys.executable)):
        done = runtime_wheel(path, tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("runtime_wheel: ")
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
