"""The keys of one participant, its own and its correspondents', and the files that hold them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from fedbroker.credentials import create_private, read_secret
from fedbroker.errors import ConfigError
from fedbroker.trust.keys import Identity, Public

__all__ = ["SECRET", "Keys", "coordinator_keys", "keys_table", "public_key", "silo_keys"]

SECRET: Final = "secret.key"
"""The default name of a file with a secret."""

T = TypeVar("T")

_KEYS: Final = {"secret_file": str, "seal": bool, "silos": dict}


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a coordinator or a silo.

    Attributes:
        own: its own secret.
        others: the public keys that may write to it, by name: at a coordinator its silos'; at a silo its coordinators',
            whose names are labels for people.
        seal: send and accept only sealed messages, for every kind of message that can be sealed.

    Raises:
        ConfigError: a key has two names, or no key is given.
    """

    own: Identity
    others: Mapping[str, Public]
    seal: bool = False

    def __post_init__(self) -> None:
        if not self.others:
            raise ConfigError("no public key is given", hint="add the public keys of the other side")
        names: dict[Public, str] = {}
        for name, key in self.others.items():
            if key in names:
                raise ConfigError(
                    f"{names[key]!r} and {name!r} have the same public key", hint="give each of them a key of its own"
                )
            names[key] = name


def coordinator_keys(path: Path) -> Keys:
    """Read a coordinator's keys from a TOML file.

    ``secret_file`` names the file with its secret, relative to this one; the table ``[silos]`` has the public key of
    each silo by its name; ``seal = true`` insists on sealed messages.

    Raises:
        ConfigError: a file cannot be read, or an entry is missing, unknown or no key; names the entry.
    """
    table = _table(path)
    for name, value in table.items():
        if name not in _KEYS:
            raise ConfigError(f"unknown key {name!r} in {path.name}", hint=f"valid are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[name]):
            raise ConfigError(f"{name!r} in {path.name} is {value!r}", hint="see docs/security.md")
    if "secret_file" not in table:
        raise ConfigError(f"'secret_file' in {path.name} is missing", hint='add it: secret_file = "secret.key"')
    label = f"'secret_file' in {path.name}"
    own = _labelled(label, lambda: Identity.parse(read_secret(label, table["secret_file"], path.parent)))
    silos = {
        name: _labelled(f"{name!r} in [silos] of {path.name}", partial(Public.parse, str(text)))
        for name, text in table.get("silos", {}).items()
    }
    return _labelled(path.name, lambda: Keys(own, silos, table.get("seal", False)))


def keys_table(silos: Mapping[str, object], *, seal: bool) -> str:
    """Return a coordinator's keys as TOML, for :func:`coordinator_keys`; the secret's file lies in the same directory.

    Args:
        silos: the public key of each silo, by its name.
        seal: whether messages are to be sealed.
    """
    lines = "".join(f'{name} = "{key}"\n' for name, key in sorted(silos.items()))
    return f'secret_file = "{SECRET}"\nseal = {str(seal).lower()}\n\n[silos]\n{lines}'


def silo_keys(secret: str, coordinators: Sequence[str], *, seal: bool) -> Keys:
    """Return a silo's keys, from the text of its secret and of its coordinators' public keys.

    Raises:
        ConfigError: a text is not a key.
    """
    others = [Public.parse(text) for text in coordinators]
    return Keys(Identity.parse(secret), {key.fingerprint: key for key in others}, seal)


def public_key(path: Path) -> Public:
    """Return the public key of the secret in a file; create the file, readable by its owner only, if it does not exist.

    Raises:
        ConfigError: the file can neither be read nor created, or contains no secret.
    """
    try:
        file = create_private(path)
    except FileExistsError:
        return _labelled(str(path), lambda: Identity.parse(read_secret(str(path), str(path.absolute()), Path()))).public
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", hint="name another file") from None
    identity = Identity.generate()
    with file:
        file.write(identity.reveal() + "\n")
        file.flush()
        os.fsync(file.fileno())  # the public key is given away next: the secret must survive a power cut
    return identity.public


def _table(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="correct keys=") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="correct it") from None


def _labelled(label: str, make: Callable[[], T]) -> T:
    """Call ``make``; prefix a configuration error with the label."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{label}: {error.what}", hint=error.hint) from None
