"""Files with a silo's secrets that other users of the machine can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedbroker.credentials import readable_by_others
from fedbroker.diagnostics.finding import Finding
from fedbroker_worker.config import PASSWORD_IN_URL, SOURCE_SECRETS
from fedbroker_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fedbroker_worker.config import Settings

__all__ = ["exposed_secrets"]


def exposed_secrets(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Finding]:
    """Return a warning for each file with a secret that any user of this machine may read."""
    return [
        Finding.warning(
            "secrets",
            SettingsError(f"any user of this machine may read {path}, which holds a secret", hint=f"chmod 600 {path}"),
        )
        for path in dict.fromkeys(_files(settings, environ))
        if readable_by_others(path)
    ]


def _files(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    if PASSWORD_IN_URL.search(settings.path.read_text(encoding="utf-8-sig", errors="replace")):
        yield settings.path
    if settings.key_file is not None:
        yield settings.directory / settings.key_file
    for variable, value in environ.items():
        if variable.startswith("FEDBROKER_SILO_") and variable.endswith("_FILE"):
            yield Path(value)
    for source in settings.data.values():
        for key in SOURCE_SECRETS:
            if isinstance(named := source.options.get(key), str):
                yield settings.directory / named
