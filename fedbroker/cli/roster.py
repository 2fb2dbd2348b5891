"""``fedbroker admin roster``: sign the roster of a cohort's silos, or print one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

from fedbroker.cli.common import ADMIN_DIRECTORY, AdminDirectory, Json, age_text, print_json, table
from fedbroker.errors import ConfigError, UsageError
from fedbroker.text import count_text, printable

if TYPE_CHECKING:
    from fedbroker.admin.rosters import Rosters, SignedRoster
    from fedbroker.masking.roster import Roster
    from fedbroker.trust import Public

__all__ = ["EXAMPLES", "print_roster_note", "roster"]

EXAMPLES: Final = """Examples:
  fedbroker admin roster                                     of the only cohort
  fedbroker admin roster --cohort airports --expires 365d
  fedbroker admin roster --cohort airports --keys keys.toml -o airports.roster
  fedbroker admin roster --show airports.roster
  fedbroker admin roster --show airports.roster --json | jq -r '.silos[].fingerprint'"""


def roster(
    *,
    cohort: Annotated[
        str | None,
        cyclopts.Parameter(help="The cohort's name. Default: the only one in the administrator's directory."),
    ] = None,
    expires: Annotated[
        str | None,
        cyclopts.Parameter(
            help="Time until silos refuse the roster: 12h, 90d, 4w. Later rosters get the same. Default: the last one, "
            "or 90d."
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        cyclopts.Parameter(
            help="A coordinator's file of keys, whose silos are the roster's. Default: the silos of the last roster, "
            "or of the files that `enroll` wrote."
        ),
    ] = None,
    output: Annotated[
        Path | None, cyclopts.Parameter(name=("--output", "-o"), help="Also write the roster to this file.")
    ] = None,
    show: Annotated[Path | None, cyclopts.Parameter(help="Print the roster in this file, and sign nothing.")] = None,
    roster_key: Annotated[
        str | None,
        cyclopts.Parameter(
            help="With --show, the public key that must have signed it. Default: the administrator's own."
        ),
    ] = None,
    out: AdminDirectory = ADMIN_DIRECTORY,
    json: Json = False,
) -> None:
    """Sign a new roster of a cohort's silos, for masked sums; or print one.

    A silo masks its values only with silos that its roster lists, so that neither
    the coordinator nor the broker can invent some. `enroll` and `revoke` sign a
    new roster by themselves: use this before one expires, and for silos that
    were not enrolled. Makes the administrator's key if it does not
    exist. Needs no broker.
    """
    from fedbroker.admin.files import Folder
    from fedbroker.admin.rosters import Rosters

    rosters = Rosters(Folder(out))
    if show is not None:
        if any(value is not None for value in (cohort, expires, keys, output)):
            raise UsageError("--show signs nothing", hint="omit --cohort, --expires, --keys and --output")
        _show(show, rosters, roster_key, json)
        return
    if roster_key is not None:
        raise UsageError("--roster-key belongs to --show", hint="omit it: the administrator's own key signs")
    signed = _sign(rosters, _cohort(rosters, cohort), expires, keys, output)
    if json:
        print_json(_as_json(signed.roster, signed=True) | {"file": str(signed.path), "roster_key": str(signed.key)})
        return
    print(f"roster {signed.roster.serial} of cohort {signed.roster.cohort}: see {signed.path}")
    print(
        "; ".join([f"{count_text(len(signed.roster.silos), 'silo')}, until {signed.roster.last_day}", *signed.changes])
    )
    print(f"roster key: {signed.key}")
    print_roster_note(signed, "next: ")
    print("    a silo whose silo.toml has no roster_key yet gets two lines in [security], and a restart:")
    print(f'    roster_key = "{signed.key}"')
    print(f'    roster = "{signed.path.name}"')


def print_roster_note(signed: SignedRoster | None, prefix: str = "") -> None:
    """Print what to do with a new roster; nothing without one."""
    if signed is not None:
        print(f"{prefix}copy {signed.path} to each silo of the cohort, next to its silo.toml:")
        print("    a running silo reads it again by itself")


def _sign(rosters: Rosters, cohort: str, expires: str | None, keys: Path | None, output: Path | None) -> SignedRoster:
    from fedbroker.admin.rosters import keys_of
    from fedbroker.credentials import write_private

    silos = rosters.silos(cohort) if keys is None else keys_of(keys)
    if not silos:
        raise ConfigError(
            f"cohort {cohort!r} has no silo with a public key",
            hint="enroll silos (`fedbroker admin enroll`), or name a coordinator's file of keys by --keys",
        )
    signed = rosters.sign(cohort, silos=silos, expires=expires)
    if output is not None:
        write_private(output, signed.path.read_text(encoding="utf-8"), mode=0o644)
    return signed


def _cohort(rosters: Rosters, cohort: str | None) -> str:
    from fedbroker.wire.messages import check_name

    if cohort is not None:
        return check_name("cohort", cohort)
    found = rosters.cohorts()
    if len(found) != 1:
        known = ", ".join(found) or "the administrator's directory has none"
        raise UsageError("the cohort's name is missing", hint=f"give --cohort: {known}")
    return found[0]


def _show(file: Path, rosters: Rosters, roster_key: str | None, json: bool) -> None:
    from fedbroker.cli.common import console
    from fedbroker.masking.roster import MAX_ROSTER_BYTES, read_roster
    from fedbroker.trust import Public

    administrator = rosters.administrator
    key: Public | None = None if administrator is None else administrator.public
    if roster_key is not None:
        key = Public.parse(roster_key)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_ROSTER_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint="name a roster's file") from None
    try:
        found = read_roster(content, key)
    except ConfigError as error:
        raise ConfigError(f"{printable(str(file))}: {error.what}", hint=error.hint) from None
    if json:
        print_json(_as_json(found, signed=None if key is None else True))
        return
    left = found.expires - time.time()
    expiry = f"expires {found.last_day}, in {age_text(left)}" if left > 0 else f"expired {found.last_day}"
    signature = "signature not checked (give --roster-key)" if key is None else f"signed with {key.fingerprint}"
    print(f"roster {found.serial} of cohort {found.cohort}, {signature}, {expiry}")
    shown = table("silo", "fingerprint")
    for name, public in found.keys.items():
        shown.add_row(printable(name), public.fingerprint)
    console().print(shown)


def _as_json(found: Roster, *, signed: bool | None) -> dict[str, object]:
    """Return a roster for programs; ``signed`` is None if no key was there to check the signature with."""
    return {
        "cohort": found.cohort,
        "number": found.serial,
        "expires": datetime.fromtimestamp(found.expires, UTC).isoformat(timespec="seconds"),
        "expired": found.expires < time.time(),
        "signed": signed,
        "silos": [
            {"silo": name, "fingerprint": key.fingerprint, "public_key": str(key)} for name, key in found.keys.items()
        ],
    }
