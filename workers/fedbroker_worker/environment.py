"""Overrides of ``[silo]`` from the environment: a key's value, or a file that holds it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedbroker.credentials import from_file
from fedbroker_worker.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Override", "overrides"]

_PREFIX: Final = "FEDBROKER_SILO_"
_FILE: Final = "_file"
# Kubernetes sets these in every pod of a namespace that has a service called fedbroker-silo: they are not settings.
_SERVICE_LINK: Final = re.compile(r"(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)")


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the environment.

    Attributes:
        variable: the environment variable.
        value: its value, which may be a secret.
    """

    variable: str
    value: str = field(repr=False)


def overrides(environ: Mapping[str, str], keys: Collection[str]) -> dict[str, Override]:
    """Return the overridden keys: ``FEDBROKER_SILO_KEY`` holds a value, ``FEDBROKER_SILO_KEY_FILE`` names a file.

    Args:
        environ: the environment.
        keys: the valid keys; unknown keys are returned, too, for the caller to refuse.

    Raises:
        SettingsError: a key is set twice, or its file cannot be read.
    """
    found: dict[str, Override] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(_PREFIX)
        if not variable.startswith(_PREFIX) or _SERVICE_LINK.fullmatch(name):
            continue
        key = name.lower()
        inner = key.removesuffix(_FILE)
        by_file = key not in keys and inner in keys
        key = inner if by_file else key
        if key in found:
            both = " and ".join(sorted((variable, found[key].variable)))
            raise SettingsError(f"{both} are both set in the environment", hint="unset one of them")
        found[key] = Override(variable, from_file(variable, environ, SettingsError) if by_file else value)
    return found
