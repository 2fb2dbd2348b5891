"""The administrator's directory: files of each silo and coordinator, readable by the directory's owner only.

Its layout:

    admin.toml                            virtual host and the broker's public URL
    authority/ca.pem, ca.key              signs silos' certificates
    coordinators/NAME/broker.url          with its password
    coordinators/NAME/secret.key
    coordinators/NAME/COHORT.keys.toml    its silos' public keys
    silos/COHORT/SILO/silo.toml           with its password, or next to its certificate
    silos/COHORT/SILO/secret.key
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fedbroker.credentials import write_private
from fedbroker.errors import ConfigError
from fedbroker.trust import Identity, Public
from fedbroker.trust.files import SECRET, keys_table

__all__ = ["KEYS", "SETTINGS", "Folder", "read_text", "toml_line", "write_secret"]

SETTINGS: Final = "silo.toml"
KEYS: Final = "keys.toml"
_HINT_FORCE: Final = "give --force to replace it, or another --out"


class Folder:
    """The administrator's directory.

    Args:
        root: its path; created with its first file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def authority(self) -> Path:
        """Directory of the certificate authority."""
        return self.root / "authority"

    def silo(self, cohort: str, silo: str) -> Path:
        """Return the directory of a silo's files."""
        return self.root / "silos" / cohort / silo

    def coordinator(self, name: str) -> Path:
        """Return the directory of a coordinator's files."""
        return self.root / "coordinators" / name

    def remember(self, **settings: str) -> None:
        """Save virtual host and broker for the next command."""
        lines = "".join(toml_line(name, value) for name, value in settings.items())
        write_secret(self.root / "admin.toml", lines, force=True)

    @property
    def remembered(self) -> Mapping[str, str]:
        """Settings that :meth:`remember` saved.

        Raises:
            ConfigError: the file cannot be read.
        """
        file = self.root / "admin.toml"
        return {name: str(value) for name, value in _toml(file).items()} if file.exists() else {}

    def coordinators(self) -> dict[str, Public]:
        """Return the public keys of all coordinators, by name.

        Raises:
            ConfigError: a secret cannot be read.
        """
        files = sorted((self.root / "coordinators").glob(f"*/{SECRET}"))
        return {file.parent.name: Identity.parse(read_text(file)).public for file in files}

    def identity(self, directory: Path, *, force: bool) -> Identity:
        """Make a new key pair; write its secret into a directory.

        Raises:
            ConfigError: the directory has a secret already, and ``force`` is not set.
        """
        made = Identity.generate()
        write_secret(directory / SECRET, f"{made.reveal()}\n", force=force)
        return made

    def collect(self, cohort: str, silo: str, public: Public | None) -> list[Path]:
        """Write a silo's public key into each coordinator's file of keys; None removes it.

        Returns:
            The coordinators' files of keys for that cohort.

        Raises:
            ConfigError: a file cannot be read.
        """
        files = [self.coordinator(name) / f"{cohort}.{KEYS}" for name in self.coordinators()]
        for file in files:
            keys = _toml(file) if file.exists() else {}
            silos = dict(keys.get("silos", {}))
            if public is None:
                silos.pop(silo, None)
            else:
                silos[silo] = str(public)
            write_secret(file, keys_table(silos, seal=keys.get("seal") is True), force=True)
        return files


def toml_line(name: str, value: str) -> str:
    """Return ``name = "value"`` as a line; names of silos are bare keys in TOML."""
    return f"{name} = {json.dumps(value)}\n"


def write_secret(path: Path, text: str, *, force: bool) -> None:
    """Write a file that only its owner may read; see :func:`fedbroker.credentials.write_private`.

    Raises:
        ConfigError: it exists and is not to be replaced, or cannot be written.
    """
    if not force and path.exists():
        raise ConfigError(f"{path} is there already", hint=_HINT_FORCE)
    write_private(path, text)


def read_text(path: Path) -> str:
    """Return the text of one of our files, stripped.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read", hint="correct --out, or make it anew with --force") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="correct that line") from None
