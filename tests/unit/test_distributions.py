"""Three distributions: two share the package ``fedbroker`` without a common file, and a silo needs only one of them."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.handover import ROOT, build, runtime_wheel, tff_wheel

OURS = ("fedbroker", "fedbroker_core", "fedbroker_worker")

# Imports every module of ours, and asks for a name that only a coordinator has.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.path[:] = [*sys.argv[1:], *(path for path in sys.path if "site-packages" not in path)]
names = []
for package in map(importlib.import_module, ("fedbroker", "fedbroker_worker")):
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith(".__main__"):
            importlib.import_module(found.name)
            names.append(found.name)
import fedbroker
try:
    fedbroker.Cohort
except ModuleNotFoundError as error:
    refused = str(error)
from fedbroker.runtime.process import installed_binary
print(json.dumps({"names": names, "refused": refused, "binary": str(installed_binary()), "from": fedbroker.__file__}))
"""


@pytest.fixture(scope="module")
def handover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build") / "handover")


def files(handover: Path, distribution: str) -> set[str]:
    """Return the files that a wheel installs, without its metadata."""
    (path,) = (handover / "wheels").glob(f"{distribution}-*.whl")
    with zipfile.ZipFile(path) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def sources(package: str) -> set[str]:
    """Return the files of a package's sources."""
    root = (ROOT / package).parent
    found = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix() for path in found}


def test_each_file_is_in_one_wheel(handover: Path) -> None:
    coordinator, core, worker = (files(handover, name) for name in OURS)
    assert coordinator & core == set()
    assert coordinator | core == sources("fedbroker")
    assert worker == sources("workers/fedbroker_worker")


def locked(lock: str) -> list[str]:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return re.findall(r"^([\w.-]+)==", text, re.MULTILINE)


def linked(directory: Path, names: list[str]) -> Path:
    """Return a directory in which only these installed distributions are found."""
    directory.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            target = directory / file.parts[0]
            if file.parts[0] not in ("..", "__pycache__") and not target.is_symlink():
                target.symlink_to(distribution.locate_file(file.parts[0]))
    return directory


def test_a_silo_imports_without_the_coordinators_wheel_and_tff(handover: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    made = runtime_wheel(tff_wheel(tmp_path), tmp_path)
    assert made.returncode == 0, made.stderr
    wheels = [next((handover / "wheels").glob(f"{name}-*.whl")) for name in ("fedbroker_core", "fedbroker_worker")]
    for wheel in (*wheels, Path(made.stdout.strip())):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(installed)
    others = linked(tmp_path / "others", locked("silo"))
    # Without -S, the paths of our own editable installation would be found.
    command = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(installed), str(others)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["from"].startswith(str(installed))
    modules = files(handover, "fedbroker_core") | sources("workers/fedbroker_worker")
    expected = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in modules if name.endswith(".py")
    }
    left_out = {"fedbroker", "fedbroker_worker"} | {name for name in expected if name.endswith("__main__")}
    assert set(seen["names"]) == expected - left_out
    assert seen["refused"] == "fedbroker.cohort belongs to a coordinator, and only a silo is installed here"
    assert Path(seen["binary"]) == installed / "fedbroker_runtime/tensorflow_federated/data/worker_binary"


def test_the_contract_of_the_layers_names_the_modules_of_both_wheels(handover: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {one["name"]: one for one in project["tool"]["importlinter"]["contracts"]}
    contract = contracts["The distribution fedbroker-core imports none of the coordinator's modules"]
    for modules, distribution in (("source_modules", "fedbroker_core"), ("forbidden_modules", "fedbroker")):
        named = {name.replace(".", "/") for name in contract[modules]}
        for file in files(handover, distribution) - {"fedbroker/__init__.py", "fedbroker/metrics/__init__.py"}:
            if file.endswith(".py"):
                assert any(file == f"{name}.py" or file.startswith(f"{name}/") for name in named), file
