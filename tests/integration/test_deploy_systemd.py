"""config/systemd: systemd itself verifies the units, and a silo gets what it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "config" / "systemd"
BOARD = "fedbroker-board.service"
INSTANCES = ("fedbroker-silo@ewr.service", "fedbroker-coordinator@delays.service", BOARD)
TEMPLATES = [re.sub("@.*", "@.service", name) for name in INSTANCES]
RUNTIMES = TEMPLATES[:2]
CONFINING = (
    *("mount", "umount2", "pivot_root", "seccomp"),
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
)
THRESHOLD = 21  # systemd's exposure in tenths: 2.1, of which the namespaces of the C++ runtime cause 0.9


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a root with our units, systemd's own, and the commands that ours start."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(UNITS, root / "etc" / "systemd" / "system")
    own = next(path for path in map(Path, ("/usr/lib/systemd/system", "/lib/systemd/system")) if path.is_dir())
    shutil.copytree(own, root / "usr" / "lib" / "systemd" / "system", symlinks=True)
    for template in TEMPLATES:
        for start in settings(template)["ExecStart"]:
            command = root / start.split()[0].removeprefix("/")
            command.parent.mkdir(parents=True, exist_ok=True)
            command.write_text("#!/bin/sh\n")
            command.chmod(0o755)
    return root


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = shutil.which("systemd-analyze")
    assert command is not None, "scripts/setup.sh installs it (Debian's package systemd)"
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, timeout=PROCESS_SECONDS)


@pytest.mark.parametrize("name", INSTANCES)
def test_systemd_understands_each_line(installed, name):
    done = analyze("verify", "--man=no", f"--root={installed}", name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_misspelt_line_is_found(installed, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(installed, root, symlinks=True)
    path = root / "etc" / "systemd" / "system" / "fedbroker-silo@.service"
    path.write_text(path.read_text().replace("RestartSec", "RestatSec"))
    assert "Unknown key" in analyze("verify", "--man=no", f"--root={root}", INSTANCES[0]).stderr


@pytest.mark.parametrize("name", TEMPLATES)
def test_exposure_level_is_low(name):
    judged = ("security", "--offline=true", "--no-pager", UNITS / name)
    done = analyze(*judged, f"--threshold={THRESHOLD}")
    assert done.returncode == 0, done.stdout
    assert analyze(*judged, "--threshold=1").returncode != 0


@pytest.mark.parametrize("name", RUNTIMES)
def test_runtime_namespaces_are_allowed(name):
    unit = settings(name)
    assert set(unit["RestrictNamespaces"][0].split()) == {"user", "net", "pid", "mnt", "ipc"}
    allowed = filtered(unit["SystemCallFilter"])
    for call in ("unshare", "clone", "clone3", "prctl", "pidfd_open", "socket", "bind", "ioctl", *CONFINING):
        assert call in allowed, call
    assert {"AF_UNIX", "AF_INET"} <= set(unit["RestrictAddressFamilies"][0].split())
    assert not {"SocketBindDeny", "PrivateNetwork", "MemoryDenyWriteExecute"} & unit.keys()


def test_the_board_listens_on_loopback_and_has_no_namespaces():
    unit = settings(BOARD)
    (start,) = unit["ExecStart"]
    assert start.endswith("--listen 127.0.0.1:8080")
    assert unit["RestrictNamespaces"] == ["yes"]
    assert "StateDirectory" not in unit


def filtered(lines: list[str]) -> set[str]:
    """Return the system calls that are finally allowed: each line adds some or removes some."""
    allowed: set[str] = set()
    for line in lines:
        allowed = allowed - calls(line[1:]) if line.startswith("~") else allowed | calls(line)
    return allowed


def calls(words: str) -> set[str]:
    """Return the system calls of a list, with those of its groups."""
    found: set[str] = set()
    for word in words.split():
        if not word.startswith("@"):
            found.add(word)
            continue
        printed = analyze("syscall-filter", "--no-pager", word).stdout.splitlines()[1:]
        found |= calls(" ".join(line.strip() for line in printed if line.strip() and "#" not in line))
    return found


def test_secrets_are_read_from_credentials():
    variables = ("FEDBROKER_SILO_BROKER_FILE", "FEDBROKER_URL_FILE", "FEDBROKER_URL_FILE")
    for name, variable in zip(TEMPLATES, variables, strict=True):
        unit = settings(name)
        loaded = {line.split(":")[0] for line in unit["LoadCredential"]}
        assert f"{variable}=broker" in unit["Environment"]
        assert "broker" in loaded
        assert "://" not in " ".join(unit["Environment"])


def test_silo_has_a_watchdog_and_enough_stop_time():
    from fedbroker_worker.daemon import PATIENCE, PER_WATCH, PERIOD

    unit = settings("fedbroker-silo@.service")
    assert unit["Type"] == ["notify"]
    assert float(unit["WatchdogSec"][0]) >= PERIOD * PER_WATCH
    assert float(unit["TimeoutStopSec"][0]) > PERIOD
    assert PATIENCE > PERIOD
    assert unit["RestartPreventExitStatus"] == ["2"]


def test_system_call_filter_allows_the_runtime():
    site = (UNITS / "fedbroker-silo@ewr.service.d" / "site.conf").read_text()
    assert re.search(r"^IPAddressDeny=any$", site, re.MULTILINE)
    assert re.search(r"^IPAddressAllow=.*\blocalhost\b", site, re.MULTILINE)
