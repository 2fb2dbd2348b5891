"""Secrets in files: systemd's credentials, Docker's and Kubernetes' secrets, and our own."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import parse_qsl, urlencode

from fedbroker.errors import ConfigError

__all__ = [
    "URL_FILES",
    "broker_url",
    "create_private",
    "from_file",
    "read_secret",
    "readable_by_others",
    "replace_private",
    "url_from_file",
    "with_absolute_files",
    "write_private",
]

URL_FILES: Final = ("cafile", "capath", "certfile", "keyfile")
"""Options of a broker's URL that name files."""

_URL: Final = "FEDBROKER_URL"
_URL_FILE: Final = "FEDBROKER_URL_FILE"
_CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
_CONTAINER: Final = ("/run/secrets", "/var/run/secrets")
"""Where container engines mount secrets, readable by all of the container's users."""
_MAX_BYTES: Final = 1 << 20
"""Maximal bytes of a secret's file: a larger file is not a secret, and reading it would only fill the memory."""


def read_secret(
    label: str,
    name: str,
    directory: Path,
    environ: Mapping[str, str] = os.environ,
    error: type[ConfigError] = ConfigError,
) -> str:
    """Return the text of a file, stripped.

    Args:
        label: the setting that names the file, for errors.
        name: of a credential from systemd (``LoadCredential=``), if it exists; else a path.
        directory: the base of a relative path.
        environ: the environment.
        error: the class to raise.

    Raises:
        ConfigError: ``error``, if the file cannot be read, is larger than 1 MiB, is empty, or is not text. The error
            never contains the file's contents.
    """
    path = _path(name, directory, environ)
    hint = f"correct {label}, or the file that it names"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8-sig").strip()  # editors on Windows write a byte order mark
    except FileNotFoundError:
        credentials = environ.get(_CREDENTIALS)
        neither = f", nor a credential {name} in {credentials}" if credentials and not Path(name).is_absolute() else ""
        raise error(f"{label}: file {path} does not exist{neither}", hint=hint) from None
    except OSError as failure:
        what = f"{label}: {path} cannot be read: {failure.strerror}"
        raise error(what, hint="give read permission to this process's user only") from None
    except UnicodeDecodeError:
        raise error(f"{label}: {path} is not UTF-8 text", hint=hint) from None
    if len(content) > _MAX_BYTES:
        raise error(f"{label}: {path} is larger than 1 MiB", hint=hint)
    if not text:
        raise error(f"{label}: {path} is empty", hint=hint)
    return text


def readable_by_others(path: Path) -> bool:
    """Return whether any user of this machine may read a file, which then is no place for a secret.

    A file in a directory that only its owner may enter is safe; so is one in a container's ``/run/secrets``.
    """
    try:
        found = path.resolve(strict=True)
        if not found.stat().st_mode & stat.S_IROTH or any(found.is_relative_to(place) for place in _CONTAINER):
            return False
        return all(map(_may_be_entered, found.parents))
    except OSError:
        return False


def _may_be_entered(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file that only its owner may read, atomically and with these permissions from the start.

    Missing directories are created, accessible to their owner only.

    Args:
        path: of the file; an existing one is replaced.
        text: its content.
        mode: its permissions.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        _make_private_directory(path.parent)
        replace_private(path, text, mode)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint="name another directory") from None


def replace_private(path: Path, text: str, mode: int) -> None:
    """Write a file as :func:`write_private` does, into an existing directory.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with create_private(temporary, mode) as file:
            file.write(text)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def create_private(path: Path, mode: int = 0o600) -> TextIO:
    """Create a file that only its owner may read, and open it for writing.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be created.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8")


def _make_private_directory(path: Path) -> None:
    """Create a directory and its missing parents. ``mkdir(parents=True)`` would give the parents no mode."""
    if not path.exists():
        _make_private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _path(name: str, directory: Path, environ: Mapping[str, str]) -> Path:
    if environ.get(_CREDENTIALS):
        credential = Path(environ[_CREDENTIALS]) / name
        if credential.exists():
            return credential
    return directory / name


def from_file(variable: str, environ: Mapping[str, str] = os.environ, error: type[ConfigError] = ConfigError) -> str:
    """Return the text of the file that an environment variable names: see :func:`read_secret`.

    Raises:
        ConfigError: ``error``, for the same reasons as :func:`read_secret`.
    """
    return read_secret(variable, environ[variable], Path(), environ, error)


def with_absolute_files(url: str, directory: Path) -> str:
    """Return the URL with the relative file paths in its options resolved against a directory."""
    before, mark, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    if not any(name in URL_FILES for name, _ in options):
        return url
    found = [(name, str(directory / value) if name in URL_FILES else value) for name, value in options]
    return f"{before}{mark}{urlencode(found, safe='/')}"


def url_from_file(variable: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the broker's URL, a secret, in the file that an environment variable names.

    Relative paths in the URL's options are relative to that file, so that its directory can be moved.

    Raises:
        ConfigError: the file cannot be read: see :func:`read_secret`.
    """
    url = from_file(variable, environ)
    return with_absolute_files(url, _path(environ[variable], Path(), environ).absolute().parent)


def broker_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return a coordinator's broker URL, a secret, from ``FEDBROKER_URL`` or the file in ``FEDBROKER_URL_FILE``.

    Raises:
        ConfigError: both are set, or the file cannot be read.
    """
    if not environ.get(_URL_FILE):
        return environ.get(_URL) or None
    if environ.get(_URL):
        raise ConfigError(f"{_URL} and {_URL_FILE} are both set", hint="unset one of them")
    return url_from_file(_URL_FILE, environ)
