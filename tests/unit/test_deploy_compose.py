"""compose/: errors that Compose would report, and mistakes that an operator would regret, found without Docker."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from fedbroker.admin.definitions import board_rights
from fedbroker.runtime.host import confinement, kernel
from fedbroker.transport import topology
from tests.support.certificates import self_signed
from tests.support.pages import blocks
from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose"
SECCOMP = ROOT / "config" / "seccomp" / "fedbroker.json"
FILES = ("compose.yaml", "tls.yaml", "watch.yaml", "board.yaml")
DOCKERFILES = sorted(COMPOSE.glob("*.Dockerfile"))
PUBLIC = {"rabbitmq", "prom/prometheus", "grafana/grafana"}


def load(name: str) -> dict:
    return yaml.safe_load((COMPOSE / name).read_text())


WHOLE = load("compose.yaml")
SERVICES = WHOLE["services"]


@pytest.mark.parametrize("name", FILES)
def test_named_files_and_services_exist(name):
    document = load(name)
    known = {
        key: document.get(key, {}).keys() | WHOLE.get(key, {}).keys()
        for key in ("services", "networks", "volumes", "secrets")
    }
    for service in document["services"].values():
        assert set(service.get("depends_on", {})) <= known["services"]
        assert set(service.get("networks", ())) <= known["networks"]
        secrets = {one if isinstance(one, str) else one["source"] for one in service.get("secrets", ())}
        assert secrets <= known["secrets"]
        for volume in service.get("volumes", ()):
            source, _, _ = volume.partition(":")
            if not source.startswith("."):
                assert source in known["volumes"]
            else:
                assert (COMPOSE / source).exists(), source
                assert volume.endswith(":ro")


def test_images_are_ours_or_official_and_pinned():
    for service in SERVICES.values():
        image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
        if "build" in service:
            assert (COMPOSE / service["build"]["context"]).resolve() == ROOT
            assert ROOT / service["build"]["dockerfile"] in DOCKERFILES
        else:
            repository, _, tag = image.partition(":")
            assert repository in PUBLIC
            assert tag[:1].removeprefix("v").isdigit() or tag[1:2].isdigit()


def test_long_running_services_have_health_checks_and_restart():
    for name, service in SERVICES.items():
        if name != "coordinator":  # ends with its program
            assert service["healthcheck"]["test"]
            assert service["restart"] == "unless-stopped"


def test_services_wait_for_their_healthy_dependencies():
    for name, service in SERVICES.items():
        if name != "broker":
            assert service["depends_on"]
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[needed]


def test_only_the_broker_is_published_and_without_tls_on_this_machine_alone():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"broker": ["127.0.0.1:5672:5672"]}
    assert load("tls.yaml")["services"].keys() == {"broker"}
    assert load("tls.yaml")["services"]["broker"]["ports"] == ["5671:5671"]
    assert all(port.startswith("127.0.0.1:") for port in load("watch.yaml")["services"]["grafana"]["ports"])
    assert not any("network_mode" in service or "expose" in service for service in SERVICES.values())


def test_a_silos_network_holds_broker_and_prometheus_only():
    """Check the network on which the silo listens for Prometheus, and its C++ runtime with isolation none."""
    for one in ("ewr", "jfk", "lga", "coordinator"):
        assert SERVICES[one]["networks"] == [one]
        assert WHOLE["networks"][one] == {"internal": True}
        assert {name for name, service in SERVICES.items() if one in service["networks"]} == {
            one,
            "broker",
            "prometheus",
        }


def test_silos_reach_one_port_of_the_broker_and_none_of_prometheus():
    """Check the interfaces that each server listens on; make compose connects from a silo's container."""
    broker, prometheus = SERVICES["broker"], SERVICES["prometheus"]
    environment = broker["environment"]
    assert environment["RABBITMQ_NODENAME"].endswith("@localhost")
    assert environment["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    for tool in ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_CTL_ERL_ARGS"):
        assert "inet_dist_use_interface {127,0,0,1}" in environment[tool]
    assert "getent hosts broker-metrics" in broker["command"][-1]
    assert "prometheus.tcp.ip" in broker["command"][-1]
    assert "--web.listen-address=prometheus-api:9090" in prometheus["command"]
    for service, alias in ((broker, "broker-metrics"), (prometheus, "prometheus-api")):
        aliases = {name: (how or {}).get("aliases", []) for name, how in service["networks"].items()}
        assert [name for name, names in aliases.items() if alias in names] == ["watch"]
    assert {name for name, service in SERVICES.items() if "watch" in service["networks"]} == {
        "broker",
        "prometheus",
        "grafana",
    }


def test_the_board_is_published_on_this_machine_with_a_token_and_reaches_the_broker_alone():
    document = load("board.yaml")
    board = document["services"]["board"]
    assert board["ports"] == ["127.0.0.1:8080:8080"]
    assert board["environment"]["FEDBROKER_BOARD_TOKEN_FILE"] == "/run/secrets/token"
    assert board["networks"] == ["board", "published"]
    assert document["networks"]["board"] == {"internal": True}
    assert board["read_only"] is True
    assert board["cap_drop"] == ["ALL"]
    assert board["security_opt"] == ["no-new-privileges:true"]
    assert board["healthcheck"]["test"]
    assert board["depends_on"] == {"broker": {"condition": "service_healthy"}}


def test_the_boards_user_has_the_rights_that_admin_gives_it(tmp_path):
    command = [sys.executable, str(COMPOSE / "passwords.py"), str(tmp_path / "made")]
    subprocess.run(command, check=True, timeout=PROCESS_SECONDS)
    definitions = json.loads((tmp_path / "made" / "definitions.json").read_text())
    (given,) = [one for one in definitions["permissions"] if one["user"] == "board"]
    rights = board_rights()
    assert (given["configure"], given["write"]) == (rights.configure, rights.write)
    for name in (
        "fedbroker.lobby",
        "fedbroker.events",
        "fedbroker.board.0a.silos",
        "fedbroker.work",
        "fedbroker.lobby.x",
    ):
        assert bool(re.fullmatch(given["read"], name)) == bool(re.fullmatch(rights.read, name))
    assert {one["name"] for one in definitions["exchanges"]} == {topology.LOBBY.name, topology.EVENTS.name}


def test_our_containers_may_write_only_where_needed():
    for name, service in SERVICES.items():
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service
        assert "user" not in service
        if name != "broker":  # whose image starts as root
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]


def test_profile_of_system_calls_allows_what_the_runtimes_confinement_calls():
    profile = json.loads(SECCOMP.read_text())
    ours = [rule for rule in profile["syscalls"] if rule.get("comment", "").startswith("fedbroker: ")]
    unshared = {rule["args"][0]["value"]: rule for rule in ours if rule["names"] == ["unshare"]}
    namespaces = kernel._NEWUSER | kernel._NEWNET
    assert unshared.keys() == {
        namespaces | kernel._NEWPID,
        namespaces,
        kernel._CLONE_NEWNS,
        confinement._CLONE_NEWIPC,
    }
    assert all(rule["args"][0] == {"index": 0, "value": flags, "op": "SCMP_CMP_EQ"} for flags, rule in unshared.items())
    (rest,) = [rule["names"] for rule in ours if rule["names"] != ["unshare"]]
    assert rest == ["mount", "pivot_root", "umount2"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    for rule in profile["syscalls"]:
        if rule not in ours and rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("includes", {}).get("caps"):
            assert not {"mount", "pivot_root", "umount2", "unshare", "setns", "clone3", "bpf"} & set(rule["names"])


def test_silos_and_coordinators_have_the_profile_and_namespaces():
    for name in ("ewr", "jfk", "lga", "coordinator"):
        (path,) = [one.removeprefix("seccomp:") for one in SERVICES[name]["security_opt"] if one.startswith("seccomp:")]
        assert (COMPOSE / path).resolve() == SECCOMP.resolve()
        assert not any("ISOLATION" in variable for variable in SERVICES[name]["environment"])


@pytest.mark.parametrize("name", FILES)
def test_no_password_is_in_the_files_or_the_environment(name):
    document = load(name)
    for secret in document.get("secrets", {}).values():
        assert secret["file"].startswith("./secrets/")
    for service in document["services"].values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASS|SECRET|TOKEN|_BROKER|_URL", variable) and "://" not in str(value):
                assert variable.endswith("_FILE")
                assert value.startswith("/run/secrets/")
    text = (COMPOSE / name).read_text()
    assert not re.search(r"://[^/\s]*:[^/\s]*@", text)
    assert not re.search(r"default_pass|DEFAULT_PASS|guest", text)


def test_secrets_are_not_in_the_repository_or_an_image():
    assert "compose/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not any(line.startswith(("!compose", "!config")) for line in ignored)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_copies_existing_files_and_runs_unprivileged(path):
    text = path.read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    stages = {line[3] for line in lines if line[0] == "FROM" and len(line) > 2}
    for words in (line for line in lines if line[0] == "COPY"):
        *sources, _ = [word for word in words[1:] if not word.startswith("--")]
        if words[1].startswith("--from="):
            assert words[1].removeprefix("--from=") in stages
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed
    assert [line[1] for line in lines if line[0] == "FROM"] == ["python:3.11-slim-bookworm"] * 2
    (user,) = [line[1] for line in lines if line[0] == "USER"]
    assert user == "10001:10001"
    assert [line[0] for line in lines].index("USER") > [line[0] for line in lines].index("RUN")
    installs = [
        one
        for words in lines
        if words[0] == "RUN"
        for one in " ".join(words).split("&&")
        if " pip " in one and (" install " in one or " wheel " in one)
    ]
    assert installs
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)  # each download has a hash
    assert f"requirements/{path.name.removesuffix('.Dockerfile')}.txt" in text


def test_program_is_stopped_by_the_signal_that_it_handles():
    """Check the stop signal: a program that is a container's first process ignores SIGTERM, and is killed later."""
    assert "\nSTOPSIGNAL SIGINT\n" in (COMPOSE / "coordinator.Dockerfile").read_text()
    assert "STOPSIGNAL" not in (COMPOSE / "silo.Dockerfile").read_text()  # it handles SIGTERM


def test_the_silos_image_knows_its_own_command_line():
    from fedbroker_worker.cli.app import app

    text = (COMPOSE / "silo.Dockerfile").read_text().replace("\\\n", "")
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    arguments = yaml.safe_load(command[1])
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert {"config", "ready_file", "alive_file"} <= bound.arguments.keys()
    assert bound.arguments["hung_after"] == 60  # an engine restarts no container for its health
    health = SERVICES["ewr"]["healthcheck"]["test"]
    (user,) = re.findall(r"^USER (\d+):\1$", text, re.MULTILINE)
    mounts = {path: options.split(",") for path, _, options in (one.partition(":") for one in SERVICES["ewr"]["tmpfs"])}
    for name in ("ready_file", "alive_file"):
        assert str(bound.arguments[name]) in health
        options = mounts[str(bound.arguments[name].parent)]  # a tmpfs belongs to root by default
        assert {f"uid={user}", f"gid={user}", "mode=0700"} == set(options)


def test_prometheus_targets_exist():
    for path in sorted((COMPOSE / "targets").glob("*.yml")):
        (group,) = yaml.safe_load(path.read_text())
        for target in group["targets"]:
            host, _, port = target.partition(":")
            service = {"broker-metrics": "broker"}.get(host, host)
            assert service in SERVICES
            assert set(SERVICES[service]["networks"]) & set(SERVICES["prometheus"]["networks"])
            environment = SERVICES[service].get("environment", {})
            address = environment.get("FEDBROKER_SILO_METRICS") or environment.get("FEDBROKER_METRICS")
            assert port == (address.rpartition(":")[2] if address else "15692")  # RabbitMQ's own


def test_passwords_are_random_and_readable_only_by_their_owner(tmp_path):
    def make(name):
        command = [sys.executable, str(COMPOSE / "passwords.py"), str(tmp_path / name)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)

    assert make("one").returncode == make("two").returncode == 0
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700
    files = {path.name: path.read_text() for path in (tmp_path / "one").iterdir()}
    secrets = {**WHOLE["secrets"], **load("board.yaml")["secrets"]}
    assert {f"./secrets/{name}" for name in files} == {one["file"] for one in secrets.values()}
    assert all(text != (tmp_path / "two" / name).read_text() for name, text in files.items())
    hidden = {re.search(r":([^:@/]*)@", files[name])[1] for name in ("coordinator", "board", "ewr", "jfk", "lga")}
    assert len(hidden) == 5
    assert not any(password in files["definitions.json"] for password in hidden)
    again = make("one")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert {path.name: path.read_text() for path in (tmp_path / "one").iterdir()} == files


@pytest.fixture
def certificates(tmp_path):
    """Return a function that runs certificates.py: with its own key file of mode 0600, and with other files."""
    (tmp_path / "secrets").mkdir(mode=0o700)
    certificate, key = self_signed(tmp_path / "own", days=1)
    key.chmod(0o600)

    def run(ca=certificate, certificate=certificate, key=key, name="127.0.0.1"):
        command = [sys.executable, COMPOSE / "certificates.py", ca, certificate, key, name, tmp_path / "secrets"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS)

    return run


def test_certificates_are_copied_so_that_the_containers_users_can_read_them(certificates, tmp_path):
    assert certificates().returncode == 0
    assert certificates().returncode == 0  # again, over the first copies
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()}
    assert files == dict.fromkeys(("ca.pem", "server.pem", "server.key"), 0o444)
    assert {f"./secrets/{name}" for name in files} == {one["file"] for one in load("tls.yaml")["secrets"].values()}
    assert (tmp_path / "secrets" / "server.key").read_text() == (tmp_path / "own" / "key.pem").read_text()


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"key": "other/key.pem"}, "is not the key of the certificate"),
        ({"ca": "other/certificate.pem"}, "certificate verify failed|self-signed certificate|self signed"),
        ({"name": "broker.example"}, "Hostname mismatch"),
        (
            {"certificate": "expired/certificate.pem", "key": "expired/key.pem", "ca": "expired/certificate.pem"},
            "expired",
        ),
        ({"key": "missing.key"}, "No such file"),
        ({"certificate": "text"}, "no certificate in PEM form"),
        ({"ca": "text"}, "no certificate in PEM form"),
        ({"key": "locked.key"}, "is encrypted"),
    ],
)
def test_wrong_certificates_are_refused_in_one_line(certificates, tmp_path, wrong, fault):
    self_signed(tmp_path / "other", days=1)
    self_signed(tmp_path / "expired", days=0)
    (tmp_path / "text").write_text("a certificate\n")
    loaded = serialization.load_pem_private_key((tmp_path / "own" / "key.pem").read_bytes(), None)
    (tmp_path / "locked.key").write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    done = certificates(**{name: tmp_path / one if name != "name" else one for name, one in wrong.items()})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("nothing was copied: ")
    assert re.search(fault, line), line
    assert not list((tmp_path / "secrets").iterdir())


def test_permissions_equal_those_of_the_security_page(tmp_path):
    subprocess.run(
        [sys.executable, COMPOSE / "passwords.py", tmp_path / "secrets"], check=True, timeout=PROCESS_SECONDS
    )
    given = json.loads((tmp_path / "secrets" / "definitions.json").read_text())
    _, *by_hand = blocks("docs/security.md", "sh")
    commands = "".join(by_hand)
    for user in ("ewr", "coordinator"):
        (tmp_path / f"{user}.password").touch()
    said = subprocess.run(
        ["bash", "-euc", f"rabbitmqctl() {{ printf '%s\\t' \"$@\"; echo; }}\n{commands}"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS,
    )  # fmt: skip
    lines = [line.split("\t")[:-1] for line in said.stdout.splitlines()]
    kinds = ("configure", "write", "read")
    permissions = [one for one in given["permissions"] if one["user"] != "board"]  # which `admin board` has, see above
    assert {(one["user"], *(one[kind] for kind in kinds)) for one in permissions} == {
        (user.replace("ewr", silo), *(one.replace("ewr", silo) for one in rest))
        for name, user, *rest in lines if name == "set_permissions"
        for silo in (("ewr", "jfk", "lga") if user == "ewr" else ("coordinator",))
    }  # fmt: skip
    topics = {(one["user"], one["exchange"], one["write"], one["read"]) for one in given["topic_permissions"]}
    assert {one for one in topics if one[0] == "ewr"} == {
        tuple(rest) for name, *rest in lines if name == "set_topic_permissions"
    }
    assert {user for user, *_ in topics} == {"ewr", "jfk", "lga"}
