"""The committed requirements are the closure of the distributions' dependencies, checked offline."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
COORDINATOR = tomllib.loads((ROOT / "pyproject.toml").read_text())
CORE = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text())
WORKER = tomllib.loads((ROOT / "workers" / "pyproject.toml").read_text())

Pins = dict[str, str]


def requirements(lines: Iterable[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


def named(name: str) -> list[Requirement]:
    """Return the requirements that the project files name for one of the requirement files."""
    left_out = {"mlflow"} if name == "coordinator" else set[str]()  # many packages for few programs: not in its image
    coordinator, core, worker = (
        requirements(
            line
            for extra, lines in {"": project["dependencies"], **project["optional-dependencies"]}.items()
            for line in lines
            if extra not in left_out
        )
        for project in (COORDINATOR["project"], CORE["project"], WORKER["project"])
    )
    groups = requirements(line for group in COORDINATOR["dependency-groups"].values() for line in group)
    return {
        "coordinator": coordinator + core,
        "silo": core + worker,
        "silo-3.12": core + worker,
        "dev": coordinator + core + worker + groups,
    }[name]


def overrides(name: str) -> dict[str, Requirement]:
    """Return the overrides for one of the requirement files; a marker that is never true removes the package."""
    file = ROOT / "requirements" / ("overrides-silo.txt" if name.startswith("silo") else "overrides.txt")
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return {canonicalize_name(wanted.name): wanted for wanted in requirements(lines)}


def pins(name: str) -> Pins:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {
        canonicalize_name(found): version for found, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


def applies(wanted: Requirement, extras: Iterable[str] = ("",)) -> bool:
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)


def closure(name: str) -> set[str]:
    """Return the closure of requirements, by the metadata of the installed distributions."""
    overridden, found = overrides(name), set[tuple[str, tuple[str, ...]]]()
    todo = [(wanted, ("",)) for wanted in named(name)]
    while todo:
        wanted, extras = todo.pop()
        known = canonicalize_name(wanted.name)
        inner = ("", *sorted(wanted.extras))
        if not applies(wanted, extras) or (known, inner) in found or not applies(overridden.get(known, wanted), extras):
            continue
        found.add((known, inner))
        todo += [(further, inner) for further in requirements(importlib.metadata.requires(known) or ())]
    return {known for known, _ in found}


@pytest.mark.parametrize("project", [COORDINATOR, CORE, WORKER], ids=["coordinator", "core", "silo"])
def test_each_dependency_is_named_once(project: dict) -> None:
    names = [canonicalize_name(one.name) for one in requirements(project["project"]["dependencies"])]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("name", ["coordinator", "silo", "silo-3.12", "dev"])
def test_each_dependency_is_locked_at_a_matching_version(name: str) -> None:
    locked, left_out = pins(name), overrides(name)
    for wanted in named(name):
        known = canonicalize_name(wanted.name)
        if applies(left_out.get(known, wanted)):
            assert known in locked, f"{known} is not in {name}.txt: run `make lock`"
            assert wanted.specifier.contains(locked[known]), f"{name}.txt has {known} {locked[known]}: run `make lock`"


@pytest.mark.parametrize("name", ["coordinator", "silo", "dev"])
def test_locked_packages_are_exactly_the_closure(name: str) -> None:
    assert set(pins(name)) == closure(name)


@pytest.mark.parametrize("name", ["coordinator", "silo", "silo-3.12", "runtime", "dev", "uv"])
def test_each_locked_version_has_hashes_and_no_registry_or_path(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(name))
    for block in blocks:
        assert "--hash=sha256:" in block
    assert not re.search(r"https?:|file:|--index|--find-links|/(home|root|tmp|work|opt)/", text)


def test_both_sides_of_the_wire_run_the_same_versions() -> None:
    everything = pins("dev")
    for name in ("coordinator", "silo"):
        assert pins(name).items() <= everything.items()


@pytest.mark.parametrize("name", ["silo", "silo-3.12"])
def test_a_silo_has_no_tensorflow(name: str) -> None:
    heavy = {"tensorflow", "tensorflow-cpu", "tensorflow-federated", "jax", "jaxlib", "keras", "scipy"}
    assert not heavy & set(pins(name))


def test_the_runtime_of_a_silo_is_the_coordinators() -> None:
    assert pins("runtime").items() <= pins("coordinator").items()


@pytest.mark.parametrize("name", ["silo", "silo-3.12"])
def test_the_tests_of_a_silo_replace_none_of_its_packages(name: str) -> None:
    locked = pins(name)
    for known, version in pins("silo-tests").items():
        assert locked.get(known, version) == version, f"{known} is replaced: run `make lock`"


def test_newer_pythons_have_the_newer_lines_of_numpy_and_protobuf() -> None:
    newer = pins("silo-3.12")
    assert int(newer["numpy"].split(".")[0]) == 2
    assert int(newer["protobuf"].split(".")[0]) in (5, 6, 7)


def test_all_distributions_have_one_version() -> None:
    version = COORDINATOR["project"]["version"]
    assert {project["project"]["version"] for project in (CORE, WORKER)} == {version}
    for project in (COORDINATOR, WORKER):
        assert f"fedbroker-core=={version}" in project["project"]["dependencies"]
        assert "fedbroker[" not in str(project["project"])
