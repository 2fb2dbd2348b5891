"""The bill of materials is complete and reproducible; known vulnerabilities fail unless they are explained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
BILLS = {"coordinator": ["coordinator"], "silo": ["silo", "runtime"], "silo-3.12": ["silo-3.12", "runtime"]}
LOCKS = ["audit", "build", "coordinator", "dev", "runtime", "silo", "silo-3.12", "silo-tests", "uv"]
PINNED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def made(directory):
    command = [sys.executable, ROOT / "scripts" / "sbom.py", directory]
    subprocess.run(command, check=True, capture_output=True, timeout=PROCESS_SECONDS)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_bills_list_every_locked_package_and_are_reproducible(tmp_path):
    bills = made(tmp_path / "one")
    assert bills == made(tmp_path / "two")
    for name, locks in BILLS.items():
        bill = json.loads(bills[f"sbom-{name}.cdx.json"])
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
        locked = "".join((ROOT / "requirements" / f"{lock}.txt").read_text() for lock in locks)
        found = {(one["name"], one["version"]) for one in bill["components"]}
        assert found == {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in PINNED.findall(locked)}
        hashes = [one["content"] for component in bill["components"] for one in component["hashes"]]
        assert sorted(hashes) == sorted(re.findall(r"sha256:(\w+)", locked))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock):
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    packages = re.split(r"\n(?=\w)", text)
    pinned = [package for package in packages if PINNED.match(package)]
    assert pinned
    assert all("--hash=sha256:" in package for package in pinned)


@pytest.fixture
def judge(tmp_path):
    """Return a function that judges a report and a list, and returns exit code and output."""

    def run(packages, known="", *others):
        report, listed = tmp_path / "report.json", tmp_path / "known.toml"
        if packages is not None:
            report.write_text(json.dumps({"dependencies": packages}))
        listed.write_text(known)
        command = [sys.executable, ROOT / "scripts" / "vulnerabilities.py", report, *others, listed]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)
        return done.returncode, done.stdout + done.stderr

    return run


HOLED = {"name": "holed", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
SOUND = {"name": "sound", "version": "1", "vulns": []}
LISTED = '[[known]]\npackage = "holed"\nid = "PYSEC-1"\nreason = "nobody reaches it"\n'


@pytest.mark.parametrize("packages", [None, [], [{"name": "sound", "skip_reason": "not found"}]])
def test_unreachable_service_is_reported_without_an_error(judge, packages):
    code, words = judge(packages)
    assert code == 0
    assert words == "audit: no service that knows of vulnerabilities was reached: the packages were not judged\n"


def test_reports_are_judged_together(judge, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"dependencies": [HOLED]}))
    assert judge([SOUND], LISTED, other) == (0, "")
    assert judge([SOUND], "", other) == (1, "audit: holed: PYSEC-1 is known, and mended in 2\n")


def test_packages_without_vulnerabilities_pass(judge):
    assert judge([SOUND]) == (0, "")


def test_vulnerability_fails_unless_it_is_listed(judge):
    assert judge([SOUND, HOLED]) == (1, "audit: holed: PYSEC-1 is known, and mended in 2\n")
    assert judge([SOUND, HOLED], LISTED) == (0, "")


def test_list_has_reasons_and_no_fixed_vulnerability(judge):
    code, words = judge([SOUND], LISTED)
    assert (code, words) == (1, "audit: holed: PYSEC-1 is listed in known.toml, and not found any more\n")
    code, words = judge([HOLED], LISTED.replace("nobody reaches it", " "))
    assert (code, words) == (1, "audit: no reason is given for holed PYSEC-1\n")
