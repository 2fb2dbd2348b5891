"""The services of compose.yaml run here: the broker's configuration and users, the silos' settings, the program.

Containers are processes here, each with its service's environment, command and health check; container paths are those
of the mounts' sources, and the broker's host name is the loopback address.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import aiormq
import pytest
import yaml

from fedbroker.broker import PrivateBroker
from fedbroker.broker.setup import free_ports
from fedbroker.diagnostics import examine, silo_role
from tests.support.certificates import self_signed
from tests.support.transports import queue_admin
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
SERVICES = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
SILOS = ("ewr", "jfk", "lga")
SILO = ["-m", "fedbroker_worker", "run", "--config", "/etc/fedbroker/silo.toml", "--ready-file", "/run/fedbroker/ready"]
SILO += ["--alive-file", "/run/fedbroker/alive"]


def conf(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split(" = ", 1) for line in lines if line and not line.startswith("#"))


class Container:
    """A service's process on this machine."""

    def __init__(self, name: str, directory: Path, secrets: Path) -> None:
        self.name = name
        self.service = SERVICES[name]
        self.root = directory / name
        self.log = directory / f"{name}.log"
        (self.root / "run" / "fedbroker").mkdir(parents=True)
        (self.root / "var" / "lib" / "fedbroker").mkdir(parents=True)
        for volume in self.service["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                self._mount((COMPOSE / source).resolve(), target)
        for secret in self.service["secrets"]:
            self._mount(secrets / secret["source"], f"/run/secrets/{secret['target']}")

    def _mount(self, source: Path, target: str) -> None:
        place = self.root / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".toml":  # its query names a file of the container
            place.write_text(source.read_text().replace("'/data/", f"'{self.root}/data/"))
        else:
            place.symlink_to(source)

    def here(self, text: str) -> str:
        """Replace container paths in a text by paths of this machine."""
        for path in ("/run/", "/etc/fedbroker/", "/var/lib/fedbroker"):
            text = text.replace(path, f"{self.root}{path}")
        return text

    def start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
        own = {name: self.here(str(value)) for name, value in self.service["environment"].items()}
        for name in {"FEDBROKER_SILO_METRICS", "FEDBROKER_METRICS"} & own.keys():
            own[name] = "127.0.0.1:0"  # ports that each container has, and this machine has once
        environ = ours | {"PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}"} | own
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *map(self.here, arguments)],
                env=environ,
                cwd=self.root / "var" / "lib" / "fedbroker",
                stdout=log,
                stderr=log,
            )

    def healthy(self) -> bool:
        test = self.here(self.service["healthcheck"]["test"].replace("$$", "$"))
        return subprocess.run(["sh", "-c", test], timeout=PROCESS_SECONDS).returncode == 0


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([sys.executable, COMPOSE / "passwords.py", directory], check=True, timeout=PROCESS_SECONDS)
    return directory


@pytest.fixture(scope="module")
def tls_port():
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="module")
def composed(secrets, tls_port):
    """Run the broker of compose.yaml and tls.yaml, and point its users' URLs to it."""
    certificate, key = self_signed(secrets, days=1)
    for source, name in ((certificate, "ca.pem"), (certificate, "server.pem"), (key, "server.key")):
        shutil.copy(source, secrets / name)
    extra = conf(ROOT / "config" / "rabbitmq" / "rabbitmq.conf") | conf(COMPOSE / "rabbitmq.conf")
    extra |= conf(COMPOSE / "tls.conf")
    assert extra["listeners.ssl.default"] == "5671"
    extra["listeners.ssl.default"] = str(tls_port)
    extra = {key: value.replace("/run/secrets", str(secrets)) for key, value in extra.items()}
    with PrivateBroker(extra_conf=extra) as node:
        for name in ("coordinator", *SILOS):
            path = secrets / name
            path.chmod(0o600)
            path.write_text(path.read_text().replace("broker:5672", f"127.0.0.1:{node.port}"))
        yield node


def test_cohort_of_containers_computes_the_mean(composed, secrets, tmp_path):
    with contextlib.ExitStack() as stack:
        coordinator = Container("coordinator", tmp_path, secrets)
        program = coordinator.start(coordinator.service["command"])  # its imports take as long as the silos' start
        stack.callback(program.wait, 15)
        stack.callback(program.kill)
        silos = [Container(name, tmp_path, secrets) for name in SILOS]
        for silo in silos:
            assert not silo.healthy()
            process = silo.start(SILO)
            stack.callback(process.wait, 15)
            stack.callback(process.terminate)
        for silo in silos:
            wait_until(silo.healthy, 30, silo.name)
        assert program.wait(120) == 0, coordinator.log.read_text()
    said = [line for line in coordinator.log.read_text().splitlines() if line.startswith("mean delay: ")]
    assert said == [f"mean delay: {mean():.2f} minutes"]
    for silo in silos:
        lines = map(json.loads, (silo.root / "var/lib/fedbroker/audit.log").read_text().splitlines())
        assert [(line["silo"], line["outcome"]) for line in lines] == [(silo.name, "begun"), (silo.name, "answered")]
    for container in (*silos, coordinator):
        for path in secrets.iterdir():
            assert path.read_text().strip() not in container.log.read_text()


def mean() -> float:
    rows = [line.split(",")[1] for path in COMPOSE.glob("data/*/flights.csv") for line in path.read_text().split()[1:]]
    delays = [float(row) for row in rows if row]
    return sum(delays) / len(delays)


async def test_remote_silo_connects_by_tls(composed, secrets, tls_port):
    plain = (secrets / "jfk").read_text().strip()
    elsewhere = plain.replace("amqp:", "amqps:").replace(str(composed.port), str(tls_port))
    async with queue_admin(f"{elsewhere}?cafile={secrets / 'ca.pem'}") as jfk:
        await jfk.publish("fedbroker.lobby", "airports.jfk", b"")
    with pytest.raises(aiormq.exceptions.AMQPConnectionError, match="certificate"):
        async with queue_admin(elsewhere):
            pass


async def test_silo_may_publish_only_under_its_own_name(composed, secrets):
    async with queue_admin((secrets / "ewr").read_text().strip()) as ewr:
        await ewr.declare("fedbroker.mailbox.airports.ewr", exclusive=True)
        with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
            await ewr.declare("somebody.elses")
        await ewr.publish("fedbroker.lobby", "airports.ewr", b"")
        for exchange, key in (("fedbroker.lobby", "airports.jfk"), ("fedbroker.reply", "c.s.0.jfk"), ("", "any")):
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await ewr.publish(exchange, key, b"")


async def test_silo_finds_no_permission_missing(composed, secrets):
    findings = await examine((secrets / "jfk").read_text().strip(), silo_role("airports", "jfk"))
    assert [one.line for one in findings if one.level == "problem"] == []


def test_broker_has_no_guest_and_no_administrators(composed):
    users = [line.split("\t") for line in composed.ctl("list_users").splitlines()[1:]]
    assert sorted(users) == [[name, "[]"] for name in ("board", "coordinator", *SILOS)]


def test_broker_health_check_command_exists(composed):
    test = SERVICES["broker"]["healthcheck"]["test"]
    assert shlex.join(test[:2]) == "CMD rabbitmq-diagnostics"
    home = Path(composed.ctl("eval", 'os:getenv("RABBITMQ_HOME").').strip().strip('"'))
    assert (home / "sbin" / "rabbitmq-diagnostics").exists()
