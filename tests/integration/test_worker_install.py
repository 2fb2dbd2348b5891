"""Services that ``fedbroker-silo install`` makes of an enrolled silo: systemd verifies them, and the silo computes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from fedbroker_worker.cli.install import install_silo

import fedbroker
from tests.support.computations import sum_numbers
from tests.support.management import Admin, silo_process
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

DATA = '\n[data.numbers]\nsource = "duckdb"\nquery = "select i::float as i from range(4) t(i)"\n'


@pytest.fixture
def enrolled(office: Admin, cohort: str, tmp_path: Path) -> Path:
    """Enrol a silo, and hand its directory over; the administrator adds a data source."""
    office.done("enroll", "ewr", "--cohort", cohort)
    directory = tmp_path / "handed over"
    shutil.copytree(office.settings(cohort).parent, directory)
    with (directory / "silo.toml").open("a") as file:
        file.write(DATA)
    return directory


def compute(office: Admin, cohort: str) -> float:
    keys = office.out / "coordinators" / "coordinator" / f"{cohort}.keys.toml"
    with fedbroker.create_sync_execution_context(
        office.coordinator_url(), cohort=cohort, keys=keys, min_silos=1, timeouts=fedbroker.Timeouts(join=60)
    ) as context:
        return float(sum_numbers(context))


def assert_computes(office: Admin, cohort: str, settings: Path, variables: Mapping[str, str]) -> None:
    """Start the silo as its service would, with no secret but its credentials; check a result and the audit log."""
    log = settings.parent / "audit.log"
    with silo_process(settings, variables={**variables, "FEDBROKER_POLICY_AUDIT_FILE": str(log)}):
        assert compute(office, cohort) == 6.0
    assert '"outcome":"answered"' in log.read_text()


def unit_lines(root: Path, key: str) -> list[str]:
    """Return the values of a key in the unit of ewr and its drop-in."""
    units = root / "etc/systemd/system"
    files = (units / "fedbroker-silo@.service", *sorted((units / "fedbroker-silo@ewr.service.d").iterdir()))
    lines = "\n".join(path.read_text() for path in files).replace("%i", "ewr").splitlines()
    return [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=")]


def test_silo_installed_for_systemd_computes(office, cohort, enrolled, tmp_path):
    root, credentials = tmp_path / "root", tmp_path / "credentials"
    install_silo(enrolled, {"systemd": True}, root=root)
    credentials.mkdir()
    for name, _, path in (line.partition(":") for line in unit_lines(root, "LoadCredential")):
        if (source := root / path.removeprefix("/")).exists():
            shutil.copy(source, credentials / name)
    assert {path.name for path in credentials.iterdir()} == {"broker", "secret.key"}
    (settings,) = re.findall(r"--config (\S+)", " ".join(unit_lines(root, "ExecStart")))
    assert "FEDBROKER_SILO_BROKER_FILE=broker" in unit_lines(root, "Environment")
    variables = {"CREDENTIALS_DIRECTORY": str(credentials), "FEDBROKER_SILO_BROKER_FILE": "broker"}
    assert_computes(office, cohort, root / settings.removeprefix("/"), variables)


def test_silo_installed_for_compose_computes(office, cohort, enrolled, tmp_path):
    out = tmp_path / "project"
    install_silo(enrolled, {"compose": True}, out=out)
    document = yaml.safe_load((out / "compose.yaml").read_text())
    variables = document["services"]["silo"]["environment"]
    assert variables.pop("CREDENTIALS_DIRECTORY") == "/run/secrets"
    variables["CREDENTIALS_DIRECTORY"] = str(out / "secrets")
    assert_computes(office, cohort, out / "silo.toml", variables)


def test_systemd_understands_the_installed_service(enrolled, tmp_path):
    root = tmp_path / "root"
    install_silo(enrolled, {"systemd": True}, root=root)
    own = next(path for path in map(Path, ("/usr/lib/systemd/system", "/lib/systemd/system")) if path.is_dir())
    shutil.copytree(own, root / "usr" / "lib" / "systemd" / "system", symlinks=True)
    command = root / "opt/fedbroker/bin/fedbroker-silo"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "scripts/setup.sh installs it (Debian's package systemd)"

    def verify() -> subprocess.CompletedProcess[str]:
        arguments = ("verify", "--man=no", f"--root={root}", "fedbroker-silo@ewr.service")
        return subprocess.run([analyze, *arguments], capture_output=True, text=True, timeout=PROCESS_SECONDS)

    done = verify()
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    drop_in = root / "etc/systemd/system/fedbroker-silo@ewr.service.d/install.conf"
    drop_in.write_text(drop_in.read_text().replace("LoadCredential", "LoadCredentail"))
    assert "Unknown key" in verify().stderr  # it reads the drop-in
