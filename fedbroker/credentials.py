"""Secrets that come from files: systemd's credentials, Docker's and Kubernetes' secrets. Imports the errors only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedbroker.errors import ConfigError

__all__ = ["broker_url", "from_file"]

_URL: Final = "FEDBROKER_URL"
_URL_FILE: Final = "FEDBROKER_URL_FILE"
_LONGEST: Final = 64 << 10


def from_file(variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """What is in the file that an environment variable names, without white space around it.

    A relative name is one of systemd's credentials (in ``$CREDENTIALS_DIRECTORY``) where there are any.

    Raises:
        ConfigError: it cannot be read, holds nothing, or no text; its contents are in no error.
    """
    path = Path(environ.get("CREDENTIALS_DIRECTORY", ""), environ[variable])
    hint = f"correct {variable}, or what it names"
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode().strip()
    except OSError as error:
        raise ConfigError(f"{variable}: {path} cannot be read: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {path} is not UTF-8 text", hint=hint) from None
    if not text:
        raise ConfigError(f"{variable}: {path} is empty", hint=hint)
    return text


def broker_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """A coordinator's broker, from ``FEDBROKER_URL`` or from the file that ``FEDBROKER_URL_FILE`` names; a secret.

    Raises:
        ConfigError: both are set, or the file cannot be read.
    """
    if not environ.get(_URL_FILE):
        return environ.get(_URL) or None
    if environ.get(_URL):
        raise ConfigError(f"{_URL} and {_URL_FILE} are both set", hint="unset one of them")
    return from_file(_URL_FILE, environ)
