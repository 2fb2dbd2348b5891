"""``fedbroker-silo install``: files, permissions and one-line refusals, from directories that enrolment wrote."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import kubernetes_validate
import pytest
import yaml
from fedbroker_worker.cli.install import install_silo
from fedbroker_worker.config import load
from fedbroker_worker.install.files import File, write_all
from fedbroker_worker.install.handout import read_handout
from fedbroker_worker.roster import roster_file

from fedbroker.errors import ConfigError, FedbrokerError, UsageError
from tests.support.certificates import self_signed
from tests.support.kustomize import KUBERNETES, render
from tests.support.management import Admin

ROOT = Path(__file__).parents[2]
KINDS = ("systemd", "compose", "kubernetes")


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory):
    """Enrol silos by definitions in a file: ewr with a password, jfk with a certificate and an authority."""
    directory = tmp_path_factory.mktemp("office")
    authority, _ = self_signed(directory / "broker", days=1)
    office = Admin(directory, {})
    public = f"amqps://broker.example/?cafile={authority}"
    office.done("init", "--broker", public, "--certificates", "--definitions", str(directory / "init.json"))
    for silo, *options in (("ewr",), ("jfk", "--certificate")):
        file = str(directory / f"{silo}.json")
        office.done("enroll", silo, "--cohort", "airports", *options, "--definitions", file)
    return office


@pytest.fixture
def handout(enrolled, tmp_path):
    """Return a function that copies a silo's directory, with a data source."""

    def copy(silo: str = "jfk", more: str = '[data.rows]\nsource = "duckdb"\nfile = "/srv/rows.csv"\n') -> Path:
        source, target = enrolled.settings("airports", silo).parent, tmp_path / silo
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_text(path.read_text())
        with (target / "silo.toml").open("a") as file:
            file.write(more)
        return target

    return copy


def install(directory: Path, kind: str = "systemd", **options):
    install_silo(directory, {one: one == kind for one in KINDS}, **options)


def refused(*arguments, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        install(*arguments, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "fedbroker-secret" not in line
    return line


def modes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def urls_files(url: str) -> dict[str, str]:
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name.endswith("file")}


def test_systemd_gets_settings_secrets_and_units(handout, tmp_path, capsys):
    root, here = tmp_path / "root", "etc/fedbroker/silos/jfk"
    old = os.umask(0o077)  # does not apply
    try:
        install(handout(), root=root)
    finally:
        os.umask(old)
    units = "etc/systemd/system/fedbroker-silo@"
    secrets = ("broker", "broker-ca.pem", "certificate.pem", "key.pem", "secret.key")
    assert modes(root) == {
        **{f"{here}.{name}": 0o600 for name in secrets},
        f"{here}.toml": 0o644,
        "etc/fedbroker/silos/airports.roster": 0o644,
        f"{units}.service": 0o644,
        f"{units}jfk.service.d/install.conf": 0o644,
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o755 for path in root.rglob("*") if path.is_dir())
    assert (root / f"{units}.service").read_bytes() == (ROOT / "config/systemd/fedbroker-silo@.service").read_bytes()
    drop_in = (root / f"{units}jfk.service.d/install.conf").read_text().splitlines()
    loaded = [line.removeprefix("LoadCredential=") for line in drop_in if line.startswith("LoadCredential=")]
    assert sorted(loaded) == sorted(f"{name}:/{here}.{name}" for name in secrets if name != "broker")
    url = (root / f"{here}.broker").read_text().strip()
    credentials = "/run/credentials/fedbroker-silo@jfk.service"
    assert urls_files(url) == {
        "cafile": f"{credentials}/broker-ca.pem",
        "certfile": f"{credentials}/certificate.pem",
        "keyfile": f"{credentials}/key.pem",
    }
    assert urlsplit(url).username.startswith("airports.jfk")
    said = capsys.readouterr().out
    assert f"wrote {root}/{here}.key.pem (mode 0600)" in said
    assert f"systemctl --root={root} enable fedbroker-silo@jfk" in said
    assert "BEGIN" not in said


def test_settings_stay_as_they_are_without_the_url(handout, tmp_path):
    directory = handout()
    install(directory, root=tmp_path / "root")
    before = tomllib.loads((directory / "silo.toml").read_text())
    installed = tmp_path / "root/etc/fedbroker/silos/jfk.toml"
    after = tomllib.loads(installed.read_text())
    assert "a secret" not in installed.read_text()
    assert before["silo"].pop("broker")
    assert after == before


def test_installed_settings_load_with_the_credentials(handout, tmp_path):
    install(handout("ewr"), root=tmp_path / "root")
    here = tmp_path / "root/etc/fedbroker/silos"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("broker", "broker-ca.pem", "secret.key"):
        text = (here / f"ewr.{name}").read_text()
        (credentials / name).write_text(text.replace("/run/credentials/fedbroker-silo%40ewr.service", str(credentials)))
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "FEDBROKER_SILO_BROKER_FILE": "broker"}
    settings = load(here / "ewr.toml", environ)
    assert settings.keys is not None
    assert settings.silo.broker.startswith("amqps://airports.ewr:")


def test_secrets_of_data_sources_are_installed(handout, tmp_path):
    more = '[data.visits]\nsource = "sql"\nurl_file = "database.url"\nquery = "select 1"\n'
    directory = handout("ewr", more)
    (directory / "database.url").write_text("postgresql://me:hunter2@db/x\n")
    install(directory, root=tmp_path / "root")
    assert modes(tmp_path / "root")["etc/fedbroker/silos/ewr.database.url"] == 0o600
    drop_in = tmp_path / "root/etc/systemd/system/fedbroker-silo@ewr.service.d/install.conf"
    assert "LoadCredential=database.url:/etc/fedbroker/silos/ewr.database.url" in drop_in.read_text()


def test_dry_run_writes_nothing(handout, tmp_path, capsys):
    install(handout(), root=tmp_path / "root", dry_run=True)
    assert not (tmp_path / "root").exists()
    assert f"would write {tmp_path}/root/etc/fedbroker/silos/jfk.toml" in capsys.readouterr().out


def test_nothing_is_overwritten_without_force(handout, tmp_path, capsys):
    directory, root = handout(), tmp_path / "root"
    install(directory, root=root)
    install(directory, root=root)  # the same files once more
    assert "unchanged: " in capsys.readouterr().out
    settings = root / "etc/fedbroker/silos/jfk.toml"
    key = root / "etc/fedbroker/silos/jfk.key.pem"
    settings.write_text("other")
    (directory / "key.pem").write_text("another key")
    before = key.read_text()
    assert "exists already, with another content; give --force" in refused(directory, root=root)
    assert (settings.read_text(), key.read_text()) == ("other", before)
    install(directory, root=root, force=True)
    assert "[silo]" in settings.read_text()
    assert key.read_text() == "another key\n"
    assert f"replaced {settings}" in capsys.readouterr().out


def test_second_silo_shares_the_unit(handout, tmp_path):
    install(handout("ewr"), root=tmp_path / "root")
    install(handout("jfk"), root=tmp_path / "root")
    assert len(list((tmp_path / "root/etc/systemd/system").glob("*.service"))) == 1


def test_environment_that_the_unit_does_not_see_is_refused(handout, monkeypatch):
    directory = handout()
    monkeypatch.setattr("sys.prefix", "/home/me/venv")
    assert "the service would not see /home/me/venv" in refused(directory, dry_run=True)


def test_environment_elsewhere_is_in_the_unit(handout, monkeypatch, capsys):
    from fedbroker_worker.install.services import systemd

    directory = handout()
    monkeypatch.setattr("sys.prefix", "/srv/silo-env")
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    service = systemd(read_handout(directory), Path("/"))
    (drop_in,) = [file.text for file in service.files if file.path.name == "install.conf"]
    assert "ExecStart=\nExecStart=/srv/silo-env/bin/fedbroker-silo run --config" in drop_in
    assert [step.strip() for step in service.steps[1:]] == [
        "systemctl daemon-reload",
        "systemctl enable --now fedbroker-silo@jfk",
        "systemctl status fedbroker-silo@jfk",
    ]


def test_silo_without_data_is_told_where_to_add_them(handout, tmp_path, capsys):
    directory = handout("ewr", "")
    install(directory, root=tmp_path / "root")
    assert f"next: add data sources to {directory}/silo.toml" in capsys.readouterr().out


def in_two_lines(text: str) -> str:
    return text.replace('broker = "', 'broker = """\\\n').replace('"  # a secret', '"""  # a secret')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: None, "does not exist"),
        (lambda text: text.replace("[silo]", "[silo"), "is not TOML"),
        (lambda text: text.replace('name = "jfk"', 'nme = "jfk"'), "nme"),
        (lambda text: text.replace('"secret.key"', '"gone.key"'), "gone.key does not exist"),
        (lambda text: text.replace('"secret.key"', '"../jfk/secret.key"'), "names a file in another directory"),
        (lambda text: text.replace("cafile=broker-ca.pem", "capath=."), "names a directory"),
        (lambda text: text.replace("keyfile=key.pem", "keyfile=gone.pem"), "gone.pem in the broker's URL does not"),
        (lambda text: text.replace("[silo]", '[silo]\nproxy = "http://me:hunter2@proxy:3128"'), "holds a password"),
        (in_two_lines, "'broker' in [silo] of silo.toml is not on a line of its own"),
    ],
)
def test_unsuitable_directory_is_one_line(handout, tmp_path, change, words):
    directory = handout()
    path = directory / "silo.toml"
    text = change(path.read_text())
    path.unlink() if text is None else path.write_text(text)
    line = refused(directory, root=tmp_path / "root")
    assert words in line
    assert "hunter2" not in line
    assert not (tmp_path / "root").exists()


def test_unwritable_place_is_one_line(handout, tmp_path):
    (tmp_path / "root").write_text("")
    assert "cannot be" in refused(handout(), root=tmp_path / "root")


def test_one_kind_of_service_is_required(handout, tmp_path):
    directory = handout()
    for kinds in ({}, {"systemd": True, "compose": True}):
        with pytest.raises(UsageError, match="--systemd, --compose, --kubernetes"):
            install_silo(directory, kinds)
    assert "--systemd has no --out" in refused(directory, out=tmp_path)
    assert "--compose has no --root" in refused(directory, "compose", root=tmp_path)


def test_compose_project_names_its_files(handout, tmp_path):
    out = tmp_path / "project"
    install(handout(), "compose", out=out)
    secrets = {"broker", "broker-ca.pem", "certificate.pem", "key.pem", "secret.key"}
    assert modes(out) == {
        **{f"secrets/{name}": 0o444 for name in secrets},
        **dict.fromkeys(("airports.roster", "compose.yaml", "seccomp.json", "silo.toml"), 0o644),
    }
    assert stat.S_IMODE((out / "secrets").stat().st_mode) == 0o700
    document = yaml.safe_load((out / "compose.yaml").read_text())
    silo = document["services"]["silo"]
    assert set(silo["secrets"]) == secrets
    assert "./airports.roster:/etc/fedbroker/airports.roster:ro" in silo["volumes"]
    assert "./silo.toml:/etc/fedbroker/silo.toml:ro" in silo["volumes"]
    assert document["secrets"] == {name: {"file": f"./secrets/{name}"} for name in secrets}
    assert document["name"] == "fedbroker-jfk"
    assert urls_files((out / "secrets/broker").read_text().strip()) == {
        "cafile": "/run/secrets/broker-ca.pem",
        "certfile": "/run/secrets/certificate.pem",
        "keyfile": "/run/secrets/key.pem",
    }


def test_compose_project_confines_the_silo_as_ours_does(handout, tmp_path):
    install(handout(), "compose", out=tmp_path / "project")
    theirs = yaml.safe_load((tmp_path / "project" / "compose.yaml").read_text())["services"]["silo"]
    ours = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())["services"]["ewr"]
    for key in ("read_only", "cap_drop", "restart", "tmpfs", "healthcheck", "image", "mem_limit"):
        assert theirs[key] == ours[key], key
    assert theirs["security_opt"] == ["no-new-privileges:true", "seccomp:./seccomp.json"]
    assert "seccomp:../config/seccomp/fedbroker.json" in ours["security_opt"]
    profile = (ROOT / "config/seccomp/fedbroker.json").read_bytes()
    assert (tmp_path / "project" / "seccomp.json").read_bytes() == profile
    assert not {"ports", "expose", "privileged", "network_mode"} & theirs.keys()


def test_secrets_of_compose_need_a_private_directory(handout, tmp_path):
    (tmp_path / "project" / "secrets").mkdir(parents=True, mode=0o755)
    assert "other users may enter" in refused(handout(), "compose", out=tmp_path / "project")


@pytest.mark.parametrize("version", ["1.25", "1.37"])
def test_kubernetes_secret_is_the_one_that_the_pod_mounts(handout, tmp_path, version):
    out = tmp_path / "manifests"
    install(handout(), "kubernetes", out=out)
    assert modes(out) == {"airports.roster": 0o644, "secret.json": 0o600, "silo.toml": 0o644}
    secret = json.loads((out / "secret.json").read_text())
    kubernetes_validate.validate(secret, version, strict=True)
    (deployment,) = [one for one in render(KUBERNETES / "silo/overlays/ewr") if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    mounted = {volume["secret"]["secretName"]: volume["name"] for volume in pod["volumes"] if "secret" in volume}
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    where = mounts[mounted[secret["metadata"]["name"]]]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["CREDENTIALS_DIRECTORY"] == where
    assert environment["FEDBROKER_SILO_BROKER_FILE"] == f"{where}/broker"
    files = urls_files(secret["stringData"]["broker"].strip())
    assert {Path(path).parent for path in files.values()} == {Path(where)}
    assert {Path(path).name for path in files.values()} <= secret["stringData"].keys()
    assert "secret.key" in secret["stringData"]
    assert "broker" not in tomllib.loads((out / "silo.toml").read_text())["silo"]


@pytest.mark.parametrize(("kind", "place"), [("systemd", "root/etc/fedbroker/silos"), *[(k, "out") for k in KINDS[1:]]])
def test_installed_silo_finds_its_roster(handout, tmp_path, kind, place):
    directory = handout("ewr")
    install(directory, kind, **({"root": tmp_path / "root"} if kind == "systemd" else {"out": tmp_path / "out"}))
    here = tmp_path / place
    settings = here / ("ewr.toml" if kind == "systemd" else "silo.toml")
    credentials = {"CREDENTIALS_DIRECTORY": str(directory), "FEDBROKER_SILO_BROKER": "amqp://localhost/"}
    roster = roster_file(load(settings, credentials), remembers=False)
    assert roster.path == here / "airports.roster"
    assert "ewr" in roster.current().silos
    assert [path.name for path in here.glob("*roster-seen")] == []


def test_kubernetes_is_told_to_mount_the_roster(handout, tmp_path, capsys):
    install(handout(), "kubernetes", out=tmp_path / "out")
    said = capsys.readouterr().out
    assert f"copy {tmp_path}/out/silo.toml and {tmp_path}/out/airports.roster to your overlay" in said
    assert "add airports.roster to the files of its configMapGenerator" in said


@pytest.mark.parametrize("name", ["../airports.roster", "deep/airports.roster", "ewr.toml", "/etc/x.roster", ".roster"])
def test_roster_must_be_in_the_directory(handout, name):
    directory = handout("ewr")
    text = (directory / "silo.toml").read_text().replace('roster = "airports.roster"', f'roster = "{name}"')
    (directory / "silo.toml").write_text(text)
    assert "'roster' in [security] of silo.toml is no file in the same directory" in refused(directory, dry_run=True)


def test_roster_that_is_missing_is_named(handout):
    directory = handout("ewr")
    (directory / "airports.roster").unlink()
    assert "airports.roster does not exist" in refused(directory, dry_run=True)


def test_silo_without_a_roster_is_installed(handout, tmp_path):
    directory = handout("ewr")
    text = (directory / "silo.toml").read_text()
    (directory / "silo.toml").write_text(re.sub(r"^roster.*\n", "", text, flags=re.MULTILINE))
    install(directory, "compose", out=tmp_path / "out")
    assert "airports.roster" not in modes(tmp_path / "out")
    silo = yaml.safe_load((tmp_path / "out" / "compose.yaml").read_text())["services"]["silo"]
    assert [volume.partition(":")[0] for volume in silo["volumes"]] == ["./silo.toml", "./data", "state"]


def test_failed_write_leaves_no_temporary_file(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(FedbrokerError, match="taken cannot be read"):
        write_all([File(tmp_path / "taken", "x", 0o600)], force=True, dry_run=False)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
