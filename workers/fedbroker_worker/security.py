"""The table ``[security]`` of a silo's settings: its own key, and the coordinators that it works for."""

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
    """The table ``[security]``.

    Attributes:
        secret_file: the file with the silo's secret: a path, or the name of a systemd credential.
        coordinators: public keys of the coordinators that may send work.
        seal: accept only sealed work, and seal every reply; if False, only replies to sealed work are sealed.
    """

    secret_file: Annotated[str, Meta(description='the file with the silo\'s secret, such as "secret.key"')]
    coordinators: Annotated[
        tuple[str, ...], Meta(min_length=1, description='public keys, ["fedbroker-public-1:…"]; at least one')
    ]
    seal: bool = False


def keys_of(table: Mapping[str, object], path: Path, environ: Mapping[str, str]) -> Keys | None:
    """Return the silo's keys; None without the table: then no message is signed, and any publisher may send work.

    Args:
        table: the keys and values of ``[security]``.
        path: the settings file.
        environ: the environment.

    Raises:
        SettingsError: a key of the table is wrong, or the secret cannot be read or is malformed. The error never quotes
            the secret.
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
