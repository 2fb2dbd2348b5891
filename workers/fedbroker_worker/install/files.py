"""Files of an installation: all are checked for conflicts before the first one is written."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from fedbroker.credentials import replace_private
from fedbroker_worker.errors import SettingsError

__all__ = ["Change", "File", "write_all"]

Change: TypeAlias = Literal["new", "same", "replaced"]
"""How a file differs from the one at its path."""

_HINT: Final = "run this as root, or name another directory"


@dataclass(frozen=True, slots=True)
class File:
    """A file to write.

    Attributes:
        path: its path.
        text: its content, which may be a secret.
        mode: its permissions.
        in_private: its directory must keep out all users but its owner.
    """

    path: Path
    text: str = field(repr=False)
    mode: int
    in_private: bool = False


def write_all(files: Sequence[File], *, force: bool, dry_run: bool) -> list[tuple[File, Change]]:
    """Write the files, each atomically and with its permissions from the start. Return how each one changed.

    Args:
        files: the files.
        force: replace files with another content.
        dry_run: only check.

    Raises:
        SettingsError: a file exists with another content and is not to be replaced; then none is written. Or a file
            cannot be read or written; then those before it are written.
    """
    changes: list[tuple[File, Change]] = [(file, _change(file)) for file in files]
    for file, change in changes:
        if change == "replaced" and not force:
            raise SettingsError(f"{file.path} exists already, with another content", hint="give --force to replace it")
    if not dry_run:
        for file, _ in changes:
            _write(file)
    return changes


def _change(file: File) -> Change:
    with _one_line(file.path, "read"):
        try:
            return "same" if file.path.read_bytes() == file.text.encode() else "replaced"
        except FileNotFoundError:
            return "new"


def _write(file: File) -> None:
    with _one_line(file.path, "written"):
        _make_directory(file.path.parent, 0o700 if file.in_private else 0o755)
        if file.in_private and file.path.parent.stat().st_mode & 0o077:
            raise SettingsError(f"other users may enter {file.path.parent}", hint=f"chmod 700 {file.path.parent}")
        replace_private(file.path, file.text, file.mode)
        file.path.chmod(file.mode)  # the umask does not apply


def _make_directory(path: Path, mode: int) -> None:
    """Make a directory with this mode, which the umask does not change, and its missing parents for all to enter."""
    if not path.is_dir():
        _make_directory(path.parent, 0o755)
        path.mkdir()
        path.chmod(mode)


@contextlib.contextmanager
def _one_line(path: Path, verb: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{path} cannot be {verb}: {error.strerror}", hint=_HINT) from None
