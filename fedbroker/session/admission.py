"""Whether a silo that announces itself is taken into the cohort, and what it is told.

Plain functions; imports wire and the base.
"""

from __future__ import annotations

from typing import Final

from fedbroker.quantities import count_text
from fedbroker.wire.messages import Accepted, Announce, Rejected

__all__ = ["admit"]

NOT_NOW: Final = (30.0, 90.0)
"""Seconds from which a silo picks when to ask again, where room may be made meanwhile."""
NEVER: Final = (900.0, 2700.0)
"""The same where somebody has to change something first."""


def admit(said: Announce, coordinator: str, *, version: str, members: int, most: int) -> Accepted | Rejected:
    """The answer to an incarnation's first announcement.

    Args:
        said: what the silo announced.
        coordinator: our own name.
        version: our own; a silo of another one is taken in as long as the first two numbers are the same.
        members: how many silos are known here already.
        most: how many there may be.
    """
    if not _fit(said.version, version):
        return _rejected(
            said, coordinator, f"its version {said.version} does not fit the coordinator's {version}", never=True
        )
    if members >= most:
        return _rejected(said, coordinator, f"the coordinator knows {count_text(most, 'silo')} already", never=False)
    return Accepted(coordinator, said.silo, said.incarnation)


def _rejected(said: Announce, coordinator: str, reason: str, *, never: bool) -> Rejected:
    return Rejected(coordinator, said.silo, said.incarnation, reason, NEVER if never else NOT_NOW, never)


def _fit(theirs: str, ours: str) -> bool:
    """A source tree has no version, and fits."""
    numbers = [version.split(".")[:2] for version in (theirs, ours)]
    return not all(version[:1].isdigit() for version in (theirs, ours)) or numbers[0] == numbers[1]
