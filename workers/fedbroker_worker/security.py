"""The table ``[security]`` of a silo's settings: its own key, and the coordinators that it works for.

Imports trust, the credentials and this distribution's options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from fedbroker.credentials import read_secret
from fedbroker.errors import ConfigError
from fedbroker.trust.files import silo_keys
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.options import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedbroker.trust.guard import Keys

__all__ = ["SecuritySettings", "keys_of"]


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """The table.

    Attributes:
        secret_file: holds the silo's secret: a path, or the name of a credential that systemd hands over.
        coordinators: public keys of those that may ask.
        seal: take work that is sealed only, and seal answers; else answers are sealed where the work was.
    """

    secret_file: Annotated[str, Meta(description='the file with the silo\'s secret, such as "secret.key"')]
    coordinators: Annotated[
        tuple[str, ...], Meta(min_length=1, description='public keys, ["fedbroker-public-1:…"]; at least one')
    ]
    seal: bool = False


def keys_of(table: Mapping[str, object], path: Path, environ: Mapping[str, str]) -> Keys | None:
    """The silo's keys; None where the table is not there: then nothing is signed, and whoever can publish may ask.

    Args:
        table: what is in ``[security]``.
        path: of the settings.
        environ: the environment.

    Raises:
        SettingsError: a key of the table is wrong, the secret cannot be read, or is none; nothing of it is said.
    """
    if not table:
        return None

    def label(key: str) -> str:
        return f"{key!r} in [security] of {path.name}"

    settings = read_table(SecuritySettings, table, label=label)
    secret = read_secret(label("secret_file"), settings.secret_file, path.absolute().parent, environ, SettingsError)
    try:
        return silo_keys(secret, settings.coordinators, seal=settings.seal)
    except ConfigError as error:
        raise SettingsError(f"[security] of {path.name}: {error.what}", hint=error.hint) from None
