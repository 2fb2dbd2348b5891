"""The roster of a cohort: the public key of each silo, signed by the cohort's administrator.

Silos pin the administrator's key. So neither the coordinator nor the broker can invent a silo whose masks they know.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from fedbroker.errors import ConfigError
from fedbroker.trust.keys import Identity, Public, joined
from fedbroker.wire.messages import Name

__all__ = ["LIFETIME", "MAX_ROSTER_BYTES", "Roster", "new_roster", "parse_roster", "read_roster", "write_roster"]

HEADER: Final = b"fedbroker roster 1\n"
"""The first line of a roster file; the rest is JSON, in which the signed bytes can be embedded as they are."""

LAST_SECOND: Final = 253402300799.0
"""The end of the year 9999, in seconds since 1970: later times are no date."""

MAX_ROSTER_BYTES: Final = 1 << 20
"""Several times the bytes of the largest cohort's roster: reading a larger file would only fill the memory."""

LIFETIME: Final = 90 * 86400.0
"""Seconds until a roster expires, by default: as long as a silo that gets no new roster trusts a revoked one."""


class Roster(msgspec.Struct, frozen=True):
    """The silos of a cohort.

    Attributes:
        cohort: its name.
        serial: greater than that of every earlier roster; a silo refuses to go back.
        expires: seconds since 1970 after which silos refuse it.
        silos: the text of each silo's public key, by name.
    """

    cohort: Name
    serial: Annotated[int, Meta(ge=0)]
    expires: Annotated[float, Meta(ge=0, le=LAST_SECOND)]
    silos: dict[Name, str]

    @property
    def last_day(self) -> str:
        """The day on which it expires, in UTC."""
        return f"{datetime.fromtimestamp(self.expires, UTC):%Y-%m-%d}"

    @property
    def keys(self) -> Mapping[str, Public]:
        """The public keys by name.

        Raises:
            ConfigError: a text is no public key, or two silos have the same.
        """
        keys = {name: Public.parse(text) for name, text in self.silos.items()}
        if len(set(keys.values())) < len(keys):  # one silo with two names would make a sum of two out of a sum of three
            raise ConfigError("two silos of the roster have the same public key", hint=NEWEST)
        return keys

    def check_member(self, silo: str, key: Public) -> None:
        """Check that a silo is in the roster, with this public key.

        Raises:
            ConfigError: it is not, or with another key.
        """
        listed = self.silos.get(silo)
        if listed is None:
            raise ConfigError(f"silo {silo!r} is not in roster {self.serial}", hint=NEWEST)
        if Public.parse(listed) != key:
            raise ConfigError(
                f"roster {self.serial} has another public key for silo {silo!r}",
                hint="enroll the silo with its public key, which `fedbroker-silo key` prints",
            )

    def check_expiry(self, now: float) -> None:
        """Check that the roster has not expired.

        Raises:
            ConfigError: it has; ``now`` is later.
        """
        if self.expires < now:
            raise ConfigError(f"roster {self.serial} expired on {self.last_day}", hint=NEWEST)


def new_roster(
    cohort: str,
    silos: Mapping[str, Public],
    now: float,
    previous: Roster | None = None,
    lifetime: float = LIFETIME,
) -> Roster:
    """Return the roster that follows the previous one.

    Its number is the time, or one more than the previous number if that is greater: so it grows even where the
    previous roster was lost.

    Args:
        cohort: the cohort's name.
        silos: the public keys by name.
        now: seconds since 1970.
        previous: the previous roster; None for the first one.
        lifetime: seconds until the new one expires.

    Raises:
        ConfigError: two silos have the same public key, or the roster would outlive the year 9999.
    """
    names: dict[Public, str] = {}
    for name, key in silos.items():
        if key in names:
            raise ConfigError(
                f"silos {names[key]!r} and {name!r} have the same public key", hint="give each silo a key of its own"
            )
        names[key] = name
    if not now + lifetime <= LAST_SECOND:
        raise ConfigError("the roster would expire after the year 9999", hint="give it a shorter time")
    serial = max(int(now), 0 if previous is None else previous.serial + 1)
    return Roster(cohort, serial, now + lifetime, {name: str(key) for name, key in sorted(silos.items())})


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


def read_roster(content: bytes, administrator: Public | None) -> Roster:
    """Return the roster of a file, of any cohort and any age.

    Args:
        content: the file's content.
        administrator: the key that must have signed it; None to accept any signature.

    Raises:
        ConfigError: it is no roster, or is not signed with that key.
    """
    if not content.startswith(HEADER) or len(content) > MAX_ROSTER_BYTES:
        raise ConfigError("this file is no roster", hint=NEWEST)
    try:
        file = msgspec.json.decode(content.removeprefix(HEADER), type=_File)
        signed = joined(HEADER, bytes(file.roster))
        if administrator is not None and not administrator.signed(bytes.fromhex(file.signature), signed):
            raise ConfigError("the roster is not signed by the cohort's administrator", hint=_PINNED)
        roster = msgspec.json.decode(file.roster, type=Roster)
        _ = roster.keys
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ConfigError("the roster file is damaged", hint=NEWEST) from None
    return roster


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
    roster = read_roster(content, administrator)
    if roster.cohort != cohort:
        raise ConfigError(f"the roster is of cohort {roster.cohort!r}, not of {cohort!r}", hint=NEWEST)
    roster.check_expiry(now)
    if previous is not None and roster.serial <= previous.serial and roster != previous:
        raise ConfigError(
            f"the roster has number {roster.serial}, but number {previous.serial} was installed before", hint=NEWEST
        )
    return roster


NEWEST: Final = "install the cohort's newest roster, as `fedbroker admin roster` writes it"
_PINNED: Final = "compare roster_key with the administrator's public key"
