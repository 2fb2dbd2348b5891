"""The roster of a cohort: the public key of each silo, signed by the cohort's administrator.

Silos pin the administrator's key. So neither the coordinator nor the broker can invent a silo whose masks they know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fedbroker.errors import ConfigError
from fedbroker.trust.keys import Identity, Public, joined
from fedbroker.wire.messages import Name

__all__ = ["Roster", "parse_roster", "write_roster"]

HEADER: Final = b"fedbroker roster 1\n"
"""The first line of a roster file; the rest is JSON, in which the signed bytes can be embedded as they are."""


class Roster(msgspec.Struct, frozen=True):
    """The silos of a cohort.

    Attributes:
        cohort: its name.
        serial: greater than that of every earlier roster; a silo refuses to go back.
        expires: seconds since 1970 after which silos refuse it.
        silos: the text of each silo's public key, by name.
    """

    cohort: Name
    serial: int
    expires: float
    silos: dict[Name, str]

    @property
    def keys(self) -> Mapping[str, Public]:
        """The public keys by name.

        Raises:
            ConfigError: a text is no public key, or two silos have the same.
        """
        keys = {name: Public.parse(text) for name, text in self.silos.items()}
        if len(set(keys.values())) < len(keys):  # one silo with two names would make a sum of two out of a sum of three
            raise ConfigError("two silos of the roster have the same public key", hint=_NEWEST)
        return keys


class _File(msgspec.Struct, frozen=True):
    """A roster file after its first line: JSON.

    Attributes:
        roster: the encoded roster, whose bytes are signed.
        signature: of the administrator's key, as hexadecimal digits.
    """

    roster: msgspec.Raw
    signature: str


def write_roster(roster: Roster, administrator: Identity) -> bytes:
    """Return the content of a signed roster file."""
    encoded = msgspec.json.encode(roster, order="deterministic")
    signature = administrator.sign(joined(HEADER, encoded)).hex()
    return HEADER + msgspec.json.encode(_File(msgspec.Raw(encoded), signature)) + b"\n"


def parse_roster(
    content: bytes, administrator: Public, cohort: str, now: float, previous: Roster | None = None
) -> Roster:
    """Return the roster of a file.

    Args:
        content: the file's content.
        administrator: the pinned key of the cohort's administrator.
        cohort: the cohort that it must be of.
        now: seconds since 1970.
        previous: the newest roster so far; an older one is refused.

    Raises:
        ConfigError: it is no roster, is not signed with that key, is of another cohort, has expired or is older than
            ``previous``.
    """
    if not content.startswith(HEADER):
        raise ConfigError("this file is no roster", hint=_NEWEST)
    try:
        file = msgspec.json.decode(content.removeprefix(HEADER), type=_File)
        signed = administrator.signed(bytes.fromhex(file.signature), joined(HEADER, bytes(file.roster)))
        if not signed:
            raise ConfigError("the roster is not signed by the cohort's administrator", hint=_PINNED)
        roster = msgspec.json.decode(file.roster, type=Roster)
        _ = roster.keys
    except (msgspec.DecodeError, ValueError):
        raise ConfigError("the roster file is damaged", hint=_NEWEST) from None
    if roster.cohort != cohort:
        raise ConfigError(f"the roster is of cohort {roster.cohort!r}, not of {cohort!r}", hint=_NEWEST)
    if roster.expires < now:
        raise ConfigError("the roster has expired", hint=_NEWEST)
    if previous is not None and roster.serial <= previous.serial and roster != previous:
        raise ConfigError(
            f"the roster has number {roster.serial}, but number {previous.serial} was installed before", hint=_NEWEST
        )
    return roster


_NEWEST: Final = "install the cohort's newest roster, as `fedbroker admin roster` writes it"
_PINNED: Final = "compare roster_key with the administrator's public key"
