"""Files that hold a secret: beside the settings, or among systemd's credentials. Imports this distribution's errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedbroker_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_secret"]

_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
_LONGEST: Final = 1 << 20


def read_secret(label: str, name: str, directory: Path, environ: Mapping[str, str] = os.environ) -> str:
    """What is in the file, without white space around it.

    Args:
        label: what names the file, for errors.
        name: of a credential that systemd hands over (``LoadCredential=``), if there is one; else a path.
        directory: what a relative path is relative to.
        environ: the environment.

    Raises:
        SettingsError: it cannot be read, holds nothing, or no text; its contents are in no error.
    """
    path = _path(name, directory, environ)
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode().strip()
    except FileNotFoundError:
        looked = f" and {environ[_CREDENTIALS]}" if environ.get(_CREDENTIALS) else ""
        raise SettingsError(
            f"{label}: there is no file {name}", hint=f"it is looked for in {directory}{looked}"
        ) from None
    except OSError as error:
        what = f"{label}: {path} cannot be read: {error.strerror}"
        raise SettingsError(what, hint="let the silo's user read it, and nobody else") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{label}: {path} is not UTF-8 text", hint="name another file") from None
    if not text:
        raise SettingsError(f"{label}: {path} is empty", hint="name another file")
    return text


def _path(name: str, directory: Path, environ: Mapping[str, str]) -> Path:
    if environ.get(_CREDENTIALS):
        credential = Path(environ[_CREDENTIALS]) / name
        if credential.exists():
            return credential
    return directory / name
