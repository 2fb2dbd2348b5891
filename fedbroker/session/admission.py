"""Admission: the coordinator's answer to a silo that announces itself."""

from __future__ import annotations

from typing import Final

from fedbroker.quantities import count_text
from fedbroker.wire.messages import Accepted, Announce, Rejected

__all__ = ["admit"]

NOT_NOW: Final = (30.0, 90.0)
"""Range of seconds from which a silo picks its retry delay if the cohort is full: another silo may leave by then."""
NEVER: Final = (900.0, 2700.0)
"""The same if an operator has to change something first, such as the silo's version."""


def admit(said: Announce, coordinator: str, *, version: str, members: int, most: int) -> Accepted | Rejected:
    """Return the answer to an incarnation's first announcement.

    Args:
        said: the silo's announcement.
        coordinator: our own coordinator_id.
        version: our own; a silo of another version is admitted if the first two numbers are the same.
        members: number of silos that are known here already.
        most: largest number of silos.
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
    """Return whether two versions are compatible. A source tree has no version and is always compatible."""
    numbers = [version.split(".")[:2] for version in (theirs, ours)]
    return not all(version[:1].isdigit() for version in (theirs, ours)) or numbers[0] == numbers[1]
