"""The directory that ``fedbroker admin enroll`` writes, checked and taken apart: settings, broker's URL, secrets."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from fedbroker.credentials import read_secret
from fedbroker.text import printable
from fedbroker_worker.config import PASSWORD_IN_URL, SOURCE_SECRETS, load
from fedbroker_worker.errors import SettingsError

__all__ = ["BROKER", "SETTINGS", "Handout", "read_handout"]

SETTINGS: Final = "silo.toml"
BROKER: Final = "broker"
"""The name of the secret that holds the broker's URL."""

_URL_SECRETS: Final = {"cafile": "broker-ca.pem", "certfile": "certificate.pem", "keyfile": "key.pem"}
"""The secret for each option of the broker's URL that names a file."""
_RESERVED: Final = (BROKER, "toml", *_URL_SECRETS.values())
_SECRET_NAME: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Names that a credential of systemd, a secret of Compose and a key of a Kubernetes secret may have."""
_ROSTER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\.roster")
_BROKER_LINE: Final = re.compile(r"^[ \t]*broker[ \t]*=.*$", re.MULTILINE)
_MOVED: Final = "# The broker's URL is in a file of its own."


@dataclass(frozen=True, slots=True)
class Handout:
    """The parts of a silo's directory.

    Attributes:
        directory: the directory.
        silo: its name.
        settings: its ``silo.toml`` without the broker's URL, so that all users may read it.
        secrets: text of each secret by name, except the broker's URL.
        has_data: whether the settings have a data source.
        broker: the broker's URL, whose options name files by the names of secrets.
        roster: name and text of the file with the cohort's roster; None without one. It is no secret.
    """

    directory: Path
    silo: str
    settings: str
    secrets: Mapping[str, str] = field(repr=False)
    has_data: bool
    broker: str = field(repr=False)
    roster: tuple[str, str] | None = None

    def secrets_at(self, directory: str) -> dict[str, str]:
        """Return all secrets by name. The broker's URL names files in the directory where the silo will read them."""
        before, mark, query = self.broker.partition("?")
        options = [
            (name, f"{directory}/{value}" if name in _URL_SECRETS else value)
            for name, value in parse_qsl(query, keep_blank_values=True)
        ]
        url = f"{before}{mark}{urlencode(options, safe='/')}"
        return {BROKER: f"{url}\n", **self.secrets}


def read_handout(directory: Path) -> Handout:
    """Read and check the directory of a silo.

    Raises:
        SettingsError: a file is missing, cannot be read or is wrong, or a secret is where all users could read it.
        ConfigError: a name or the broker's URL is malformed.
    """
    path = directory / SETTINGS
    settings = load(path, {})
    text = path.read_text(encoding="utf-8-sig")
    document: dict[str, Any] = tomllib.loads(text)
    secrets: dict[str, str] = {}
    broker = _with_secrets(document["silo"]["broker"], directory, secrets)
    if settings.key_file is not None:
        _take(secrets, "'secret_file' in [security]", settings.key_file, directory)
    for name, source in settings.data.items():
        for key in SOURCE_SECRETS:
            if isinstance(file := source.options.get(key), str):
                _take(secrets, f"{key!r} in [data.{name}]", file, directory)
    rest = _without_broker(text, document)
    roster = None if settings.roster is None else _roster(settings.roster.path, directory)
    return Handout(directory, settings.silo.name, rest, secrets, bool(settings.data), broker, roster)


def _roster(path: Path, directory: Path) -> tuple[str, str]:
    """Return the roster's file: it is installed next to the settings, under its own name."""
    label, name = f"'roster' in [security] of {SETTINGS}", path.name
    if path.parent != directory.absolute() or not _ROSTER_NAME.fullmatch(name):
        raise SettingsError(
            f"{label} is no file in the same directory whose name ends with .roster",
            hint=f"put the roster into {directory}, under a name such as airports.roster",
        )
    return name, _text(label, name, directory)


def _with_secrets(url: str, directory: Path, secrets: dict[str, str]) -> str:
    """Return the broker's URL with names of secrets in place of files, and add the files' texts to the secrets."""
    before, mark, query = url.partition("?")
    options: list[tuple[str, str]] = []
    for option, value in parse_qsl(query, keep_blank_values=True):
        if option == "capath":
            raise SettingsError("`capath` in the broker's URL names a directory", hint="name one file by `cafile`")
        if option in _URL_SECRETS:
            label = f"{option!r} in the broker's URL"
            secrets[_URL_SECRETS[option]] = _text(label, value, directory)
        options.append((option, _URL_SECRETS.get(option, value)))
    return f"{before}{mark}{urlencode(options, safe='/')}"


def _take(secrets: dict[str, str], label: str, name: str, directory: Path) -> None:
    """Add the text of a secret's file, which keeps its name: the silo finds it by that name where it is installed."""
    label = f"{label} of {SETTINGS}"
    if Path(name).name != name:
        raise SettingsError(
            f"{label} names a file in another directory", hint=f"put it into {directory}, and give its name alone"
        )
    text = _text(label, name, directory)
    if name in _RESERVED or not _SECRET_NAME.fullmatch(name) or secrets.setdefault(name, text) != text:
        raise SettingsError(
            f"{label}: {printable(name)} cannot be a secret's name, or is in use", hint="give the file another name"
        )


def _text(label: str, name: str, directory: Path) -> str:
    return read_secret(label, name, directory, {}, SettingsError) + "\n"


def _without_broker(text: str, document: Mapping[str, Any]) -> str:
    """Return the settings' text without the broker's URL.

    Raises:
        SettingsError: the URL is not on a line of its own, or another password is left.
    """
    silo = {key: value for key, value in document["silo"].items() if key != BROKER}
    expected = {**document, "silo": silo}
    if PASSWORD_IN_URL.search(json.dumps(expected, default=str)):
        raise SettingsError(
            f"{SETTINGS} holds a password, and all users of a machine may read the installed file",
            hint="put the URL with the password into a file of its own: url_file, FEDBROKER_SILO_PROXY_FILE",
        )
    for line in _BROKER_LINE.finditer(text):
        changed = f"{text[: line.start()]}{_MOVED}{text[line.end() :]}"
        try:
            if tomllib.loads(changed) == expected:
                return changed
        except tomllib.TOMLDecodeError:  # the line belongs to a longer value
            continue
    raise SettingsError(
        f"'broker' in [silo] of {SETTINGS} is not on a line of its own",
        hint='write a line such as broker = "amqps://…"',
    )
