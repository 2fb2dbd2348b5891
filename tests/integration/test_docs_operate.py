"""Each command of docs/operate.md runs here if possible; otherwise the files and names in it are checked.

A test has no Docker daemon, cluster or systemd: files, services, units and objects in their commands are compared with
the repository, or with the files that other commands of the page write.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fedbroker.deadline import Deadline
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.url import parse
from tests.support.broker_tools import write_rabbitmqctl
from tests.support.certificates import self_signed
from tests.support.kustomize import render
from tests.support.management import Admin, environment, management_broker
from tests.support.pages import blocks
from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
INSTALLER = "dist/fedbroker-0.1.0/install.sh"
SILO = ("fedbroker-silo", "/opt/fedbroker/bin/fedbroker-silo")
PROJECT = "fedbroker-ewr/"
COMMANDS = [shlex.split(line) for block in blocks("docs/operate.md", "sh") for line in block.splitlines()]


def of(program: str) -> list[list[str]]:
    found = [command for command in COMMANDS if command[0] == program]
    assert found
    return found


def after(command: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(command) if name == option]


def test_every_program_of_the_page_is_tested():
    known = {"python3", "docker", "make", INSTALLER, "install", "systemctl", "journalctl", "kubectl", "rabbitmqctl"}
    recipe = {"rabbitmq-plugins", "umask", "openssl", "echo", "export", "fedbroker"}
    assert {command[0] for command in COMMANDS} == known | recipe | set(SILO)


def test_password_and_certificate_commands_write_secrets(tmp_path):
    passwords, certificates = of("python3")
    done = subprocess.run([sys.executable, *passwords[1:], tmp_path / "secrets"], cwd=ROOT, timeout=PROCESS_SECONDS)
    assert done.returncode == 0
    certificate, key = self_signed(tmp_path, days=1, name=certificates[-1])
    for source, name in ((certificate, "ca.pem"), (certificate, "server.pem"), (key, "server.key")):
        (tmp_path / name).write_bytes(source.read_bytes())
    script, *files = certificates[1:]
    done = subprocess.run(
        [sys.executable, ROOT / script, *files, tmp_path / "secrets"], cwd=tmp_path, timeout=PROCESS_SECONDS
    )
    assert done.returncode == 0


def test_compose_commands_name_existing_files_profiles_and_services():
    for command in of("docker"):
        assert command[1] == "compose"
        if all(name.startswith(PROJECT) for name in after(command, "-f")):  # written by `fedbroker-silo install`
            continue
        files = [yaml.safe_load((ROOT / name).read_text()) for name in after(command, "-f")]
        services = {name: service for file in files[:1] for name, service in file["services"].items()}
        profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
        assert set(after(command, "--profile")) <= profiles | {"*"}
        words = [word for word in command[2:] if word in ("up", "run", "down")]
        assert len(words) == 1
        assert {word for word in command[command.index(words[0]) + 1 :] if not word.startswith("-")} <= services.keys()


def test_environments_are_where_the_units_expect_them():
    assert of("make") == [["make", "build"]]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert Path(INSTALLER).parent == Path("dist", f"fedbroker-{version}")
    installed = {role: directory for _, role, directory in of(INSTALLER)}
    for role, directory in installed.items():
        text = (ROOT / "config" / "systemd" / f"fedbroker-{role}@.service").read_text()
        assert f"ExecStart={directory}/bin/" in text
    assert set(installed) == {"silo", "coordinator"}


def test_files_are_installed_at_the_paths_of_the_units(tmp_path):
    for command in of("install"):
        *rest, source, target = command
        place = tmp_path / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir(exist_ok=True) if target.endswith("/") else None
        done = subprocess.run([*rest, source, str(place)], cwd=ROOT, input=b"amqps://x/\n", timeout=PROCESS_SECONDS)
        assert done.returncode == 0
    units = tmp_path / "etc" / "systemd" / "system"
    for unit, instance in (("fedbroker-silo@.service", "ewr"), ("fedbroker-coordinator@.service", "delays")):
        text = (units / unit).read_text().replace("%i", instance)
        named = set(re.findall(r"(?:^ExecStart=.* |^LoadCredential=broker:)(/etc/\S+)", text, re.MULTILINE))
        assert len(named) == 2
        for path in named:
            assert (tmp_path / path.removeprefix("/")).stat().st_mode & 0o777 == (
                0o600 if path.endswith(".broker") else 0o644
            )
    assert (tmp_path / "etc" / "fedbroker" / "silos" / "ewr.broker").read_text() == "amqps://x/\n"


def test_services_are_instances_of_our_units():
    for command in (*of("systemctl"), *of("journalctl")):
        service = command[-1]
        if service == "daemon-reload":
            continue
        template = re.sub("@.*", "@.service", service)
        assert service == "rabbitmq-server" or (ROOT / "config" / "systemd" / template).exists()


def test_cluster_objects_are_in_the_applied_manifests():
    applied = [render(ROOT / path) for command in of("kubectl") for path in after(command, "-k")]
    assert len(applied) == 3
    objects = {
        (one["metadata"].get("namespace"), f"{one['kind'].lower()}/{one['metadata']['name']}")
        for documents in applied
        for one in documents
    }
    wanted = {
        (one["metadata"]["namespace"], volume["secret"]["secretName"])
        for documents in applied
        for one in documents
        if one["kind"] in ("Deployment", "Job")
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }
    made = set()
    for command in of("kubectl"):
        (space,) = after(command, "-n") or [None]
        if "secret" in command:
            made.add((space, command[command.index("secret") + 2]))
        elif {"logs", "rollout"} & set(command):
            assert (space, command[-1]) in objects
    assert made - {("fedbroker", "broker-tls")} == wanted


def test_enrolled_silo_is_installed_as_the_page_says(tmp_path):
    office = Admin(tmp_path, {})
    office.done("init", "--broker", "amqps://broker.example/", "--definitions", str(tmp_path / "init.json"))
    office.done("enroll", "ewr", "--cohort", "airports", "--definitions", str(tmp_path / "ewr.json"))
    shutil.copytree(office.settings("airports").parent, tmp_path / "ewr")
    for command in (*of(SILO[0]), *of(SILO[1])):
        root = ["--root", str(tmp_path / "root")] if "--systemd" in command else []
        done = subprocess.run(
            [sys.executable, "-m", "fedbroker_worker", *command[1:], *root],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PROCESS_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "root/etc/fedbroker/silos/ewr.broker").exists()
    written = [name for program in ("docker", "kubectl") for command in of(program) for name in after(command, "-f")]
    written = [name for name in written if name.startswith(PROJECT)]
    assert len(written) == 2
    assert all((tmp_path / name).exists() for name in written)


@pytest.mark.timeout(600)
def test_broker_accepts_the_commands(broker, tmp_path):
    before = users(broker)
    tried = ("export_definitions", "import_definitions", "enable_feature_flag", "list_feature_flags")
    try:
        for name in tried:  # each kind of command once: they take a second
            _, _, *rest = next(command for command in of("rabbitmqctl") if command[1] == name)
            broker.ctl(name, *(str(tmp_path / one) if one.endswith(".json") else one for one in rest))
        assert {command[1] for command in of("rabbitmqctl")} == {*tried, "add_user", "set_user_tags", "delete_user"}
        assert users(broker) == before
        assert "rabbit_version" in (tmp_path / "definitions.json").read_text()
    finally:
        for name in users(broker) - before:
            broker.ctl("delete_user", name)


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_broker_recipe_ends_in_a_working_administrator(tmp_path):
    """Run the recipe on a node without the plugin, then `fedbroker admin`; the silo's new login is accepted."""
    conf = (ROOT / "config" / "rabbitmq" / "management.conf").read_text().splitlines()
    api = dict(line.split(" = ") for line in conf if not line.startswith("#"))
    assert api == {"management.tcp.ip": "127.0.0.1", "management.tcp.port": "15672"}
    recipe, admin = (
        block for block in blocks("docs/operate.md", "sh") if "rabbitmq-plugins" in block or "fedbroker admin" in block
    )
    commands = "".join(line for line in recipe.splitlines(True) if not line.startswith(("install ", "systemctl ")))
    (tmp_path / "fedbroker").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedbroker.cli "$@"\n')
    (tmp_path / "fedbroker").chmod(0o700)
    with management_broker() as node:
        tools = write_rabbitmqctl(node.broker, tmp_path)
        port = node.api.rpartition(":")[2]
        subprocess.run(
            [tools / "rabbitmq-plugins", "disable", "rabbitmq_management"], check=True, timeout=PROCESS_SECONDS
        )
        node.broker.ctl("add_user", "guest", "guest")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", (commands + admin).replace("127.0.0.1:15672", f"127.0.0.1:{port}")],
            env=environment(PATH=f"{tools}:{os.environ['PATH']}"),
            cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "user airports.ewr: see fedbroker-admin/silos/airports/ewr" in done.stdout
        assert "guest" not in users(node.broker)
        assert "admin\t[administrator]" in node.broker.ctl("list_users")
        for secret in ("admin.password", "admin.url"):
            assert (tmp_path / secret).stat().st_mode & 0o777 == 0o600
        login = Admin(tmp_path, {}).silo_url("airports").removeprefix("amqps://").partition("@")[0]
        url = f"amqp://{login}@127.0.0.1:{node.broker.port}/fedbroker"
        asyncio.run(log_in(url))


async def log_in(url: str) -> None:
    await (await connect(parse(url), "test", Deadline.after(20))).close()


def users(broker) -> set[str]:
    return {line.split("\t")[0] for line in broker.ctl("list_users").splitlines()[1:]}
