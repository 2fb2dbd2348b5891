"""The finding of ``fedbroker-silo check`` on masked sums: whether the silo takes part in them, and until when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fedbroker.diagnostics.finding import Finding
from fedbroker.errors import ConfigError
from fedbroker.text import count_text
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.roster import roster_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedbroker.masking.roster import Roster
    from fedbroker_worker.config import Settings

__all__ = ["masked_sums"]

SUBJECT: Final = "masked sums"

SOON: Final = 14 * 86400.0
"""Seconds before its end at which a roster is worth a warning: time to get a new one to each silo."""


def masked_sums(settings: Settings, clock: Callable[[], float] = time.time) -> Finding:
    """Return the finding; a problem if the policy lets nothing but masked sums leave, and the silo cannot mask.

    Writes nothing.

    Args:
        settings: the silo's settings.
        clock: returns seconds since 1970.
    """
    needed = settings.policy.aggregates == "masked"
    file = roster_file(settings, clock, remembers=False)
    if file is None:
        missing = "roster_key in [security]" if settings.keys is not None else "[security] with keys and a roster_key"
        if not needed:
            return Finding.ok(SUBJECT, f"takes no part: the settings have no {missing}")
        error = SettingsError(
            f'aggregates = "masked", but the settings have no {missing}: nothing can leave this silo',
            hint="add the roster_key that `fedbroker admin roster` printed, and install the roster",
        )
        return Finding.problem(SUBJECT, error)
    try:
        roster = file.current()
    except SettingsError as error:
        return Finding.problem(SUBJECT, error) if needed else Finding.warning(SUBJECT, error)
    if file.problem is not None:
        kept = f"{file.problem.what}; roster {roster.serial} stays in force"
        return Finding.warning(SUBJECT, ConfigError(kept, hint=file.problem.hint))
    return _found(settings, roster, roster.expires - clock())


def _found(settings: Settings, roster: Roster, left: float) -> Finding:
    assert settings.roster is not None, "the roster was read"
    fewest, number = settings.policy.min_sum_silos, count_text(len(roster.silos), "silo")
    what = f"roster {roster.serial} of {number}, signed with {settings.roster.key.fingerprint}, "
    if len(roster.silos) < fewest:
        few = f"{what}is too small for min_sum_silos = {fewest}"
        return Finding.warning(SUBJECT, ConfigError(few, hint="enroll more silos, and install the new roster"))
    what += f"expires on {roster.last_day}"
    if left < SOON:
        soon = ConfigError(what, hint="sign a new one with `fedbroker admin roster`, and install it at each silo")
        return Finding.warning(SUBJECT, soon)
    return Finding.ok(SUBJECT, f"takes part: {what}")
