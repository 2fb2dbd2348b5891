"""The command ``fedbroker-silo install``: a silo as a service, from the directory that its enrolment wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedbroker.errors import UsageError
from fedbroker_worker.install.files import File, write_all
from fedbroker_worker.install.handout import Handout, read_handout
from fedbroker_worker.install.services import Service, compose, kubernetes, systemd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedbroker_worker.install.files import Change

__all__ = ["install_silo"]

_WORDS: Final[Mapping[Change, tuple[str, str]]] = {
    "new": ("wrote", "would write"),
    "replaced": ("replaced", "would replace"),
    "same": ("unchanged:", "unchanged:"),
}


def install_silo(
    directory: Path,
    kinds: Mapping[str, bool],
    *,
    root: Path | None = None,
    out: Path | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> None:
    """Write the files of a service, and print them and the next steps.

    Args:
        directory: the directory that ``fedbroker admin enroll`` wrote.
        kinds: whether each kind of service is asked for: exactly one of ``systemd``, ``compose``, ``kubernetes``.
        root: root directory for ``systemd``; None for this machine's.
        out: directory for the others; None for one named after the silo.
        dry_run: only print.
        force: replace existing files.

    Raises:
        UsageError: not one kind is asked for, or an option is for another kind.
        SettingsError: the directory is incomplete or wrong, or a file exists or cannot be written.
    """
    chosen = [kind for kind, wanted in kinds.items() if wanted]
    if len(chosen) != 1:
        raise UsageError("the kind of service is missing", hint="give one of --systemd, --compose, --kubernetes")
    kind = chosen[0]
    if (root if kind != "systemd" else out) is not None:
        raise UsageError(f"--{kind} has no {'--out' if kind == 'systemd' else '--root'}", hint="omit it")
    handout = read_handout(directory)
    service = _service(kind, handout, root, out)
    written = write_all(service.files, force=force, dry_run=dry_run)
    for file, change in written:
        print(_line(file, change, dry_run=dry_run))
    for step in service.steps:
        print(step)


def _service(kind: str, handout: Handout, root: Path | None, out: Path | None) -> Service:
    if kind == "systemd":
        return systemd(handout, (root or Path("/")).absolute())
    make = compose if kind == "compose" else kubernetes
    return make(handout, out or Path(f"fedbroker-{handout.silo}"))


def _line(file: File, change: Change, *, dry_run: bool) -> str:
    return f"{_WORDS[change][dry_run]} {file.path} (mode {file.mode:04o})"
