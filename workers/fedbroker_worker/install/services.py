"""Which files a silo needs as a service of systemd, in Compose and on Kubernetes, and what to do with them.

In all three the silo finds its secrets by name, as systemd's credentials: ``CREDENTIALS_DIRECTORY`` names their
directory. So ``silo.toml`` is the same everywhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from fedbroker_worker.errors import SettingsError
from fedbroker_worker.install.files import File
from fedbroker_worker.install.handout import BROKER, SETTINGS, Handout

__all__ = ["Service", "compose", "kubernetes", "systemd"]

PREFIX: Final = Path("/opt/fedbroker")
"""The environment in our unit."""
_UNIT: Final = "fedbroker-silo@.service"
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # only compared with  # nosec B108
"""Directories that our unit does not see (``ProtectHome``, ``PrivateTmp``)."""

PUBLIC: Final = 0o644
SECRET: Final = 0o600
CONTAINER_SECRET: Final = 0o444
"""A secret for a container's user, in a directory that keeps all others out."""


@dataclass(frozen=True, slots=True)
class Service:
    """An installation.

    Attributes:
        files: the files to write.
        steps: what to do next, a line each; commands are indented.
    """

    files: Sequence[File]
    steps: Sequence[str]


def systemd(handout: Handout, root: Path) -> Service:
    """Return a silo's service of systemd, in the root directory of a machine.

    Raises:
        SettingsError: the unit would not see the environment of this command.
    """
    silo, here = handout.silo, root / "etc/fedbroker/silos"
    units = root / "etc/systemd/system"
    name = f"fedbroker-silo@{silo}"
    secrets = handout.secrets_at(f"/run/credentials/{name}.service")
    prefix = PREFIX if root != Path("/") else _visible(Path(sys.prefix))
    found = [
        File(here / f"{silo}.toml", handout.settings, PUBLIC),
        *(File(here / f"{silo}.{secret}", text, SECRET) for secret, text in secrets.items()),
        *_roster(handout, here),
        File(units / _UNIT, _resource(_UNIT), PUBLIC),
    ]
    if drop_in := _drop_in(silo, [secret for secret in secrets if secret != BROKER], prefix):
        found.append(File(units / f"{name}.service.d" / "install.conf", drop_in, PUBLIC))
    commands = (
        ("systemctl daemon-reload", f"systemctl enable --now {name}", f"systemctl status {name}")
        if root == Path("/")
        else (f"systemctl --root={root} enable {name}",)
    )
    note = "absolute paths of files that the service may read: docs/operate.md"
    return Service(found, (_data_step(handout, note), *_indented(commands)))


def compose(handout: Handout, out: Path) -> Service:
    """Return a silo as a project of Compose, in a directory of its own."""
    secrets = handout.secrets_at("/run/secrets")
    service = Template(_resource("compose.yaml")).substitute(
        silo=handout.silo,
        mounts="".join(f"      - {name}\n" for name in secrets),
        files="".join(f"  {name}: {{ file: ./secrets/{name} }}\n" for name in secrets),
        roster="".join(
            f"\n      - ./{file.path.name}:/etc/fedbroker/{file.path.name}:ro" for file in _roster(handout, out)
        ),
    )
    found = [
        File(out / "compose.yaml", service, PUBLIC),
        File(out / SETTINGS, handout.settings, PUBLIC),
        File(out / "seccomp.json", _resource("seccomp.json"), PUBLIC),
        *_roster(handout, out),
        *(File(out / "secrets" / name, text, CONTAINER_SECRET, in_private=True) for name, text in secrets.items()),
    ]
    data = _data_step(handout, f"files in {out / 'data'} are in /data in the container")
    commands = (f"docker compose -f {out}/compose.yaml up --wait", f"docker compose -f {out}/compose.yaml logs")
    return Service(found, (data, *_indented(commands)))


def kubernetes(handout: Handout, out: Path) -> Service:
    """Return the secret of a silo on Kubernetes, and the settings for its overlay, in a directory of its own."""
    secrets = handout.secrets_at("/run/secrets/fedbroker")
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "fedbroker-silo", "labels": {"app.kubernetes.io/name": "fedbroker-silo"}},
        "type": "Opaque",
        "stringData": secrets,
    }
    found = [
        File(out / "secret.json", json.dumps(manifest, indent=2) + "\n", SECRET),
        File(out / SETTINGS, handout.settings, PUBLIC),
        *_roster(handout, out),
    ]
    copied = " and ".join(str(file.path) for file in found[1:])
    space = f"fedbroker-{handout.silo.replace('_', '-')}"
    return Service(
        found,
        (
            _data_step(handout, "files of its volume are in /data in the pod"),
            *_indented((f"kubectl create namespace {space}", f"kubectl -n {space} apply -f {out}/secret.json")),
            f"copy {copied} to your overlay (config/kubernetes/silo/overlays/ewr is an example),",
            *_roster_step(handout),
            "then",
            *_indented(("kubectl apply -k OVERLAY", f"kubectl -n {space} rollout status deployment/fedbroker-silo")),
        ),
    )


def _roster(handout: Handout, directory: Path) -> list[File]:
    """Return the file of the cohort's roster, next to the settings; none for a silo that masks nothing."""
    if handout.roster is None:
        return []
    name, text = handout.roster
    return [File(directory / name, text, PUBLIC)]


def _roster_step(handout: Handout) -> list[str]:
    if handout.roster is None:
        return []
    return [f"add {handout.roster[0]} to the files of its configMapGenerator,"]


def _drop_in(silo: str, secrets: Sequence[str], prefix: Path) -> str:
    """Return the silo's own lines of its unit; empty if it needs none."""
    lines = [f"LoadCredential={name}:/etc/fedbroker/silos/{silo}.{name}" for name in secrets]
    if prefix != PREFIX:
        lines += ["ExecStart=", f"ExecStart={prefix}/bin/fedbroker-silo run --config /etc/fedbroker/silos/%i.toml"]
    if not lines:
        return ""
    return "\n".join(["# Written by `fedbroker-silo install`.", "[Service]", *lines, ""])


def _visible(prefix: Path) -> Path:
    """Return the environment's directory if our unit sees it and its Python."""
    for path in (prefix, Path(sys.executable).resolve()):
        if any(path.is_relative_to(hidden) for hidden in _HIDDEN):
            raise SettingsError(
                f"the service would not see {path}",
                hint=f"install fedbroker in {PREFIX}, with a Python outside of home directories, and use its command",
            )
    return prefix


def _data_step(handout: Handout, note: str) -> str:
    if handout.has_data:
        return f"next: check the data sources' paths ({note}), then"
    return f"next: add data sources to {handout.directory / SETTINGS} ({note}), run this again with --force, then"


def _indented(commands: Sequence[str]) -> list[str]:
    return [f"    {command}" for command in commands]


def _resource(name: str) -> str:
    return (files("fedbroker_worker.install") / name).read_text(encoding="utf-8")
