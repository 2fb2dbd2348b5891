"""Names of cohorts, silos and coordinators: words of routing keys, so they contain no dot and no wildcard."""

from __future__ import annotations

import re
from typing import Final

from fedbroker.errors import ConfigError

__all__ = ["NAME", "check_name", "is_name"]

NAME: Final = "[a-z0-9][a-z0-9_-]{0,62}"
"""The regular expression of a name."""

_NAME: Final = re.compile(NAME)


def is_name(value: str) -> bool:
    """Return whether ``value`` is 1 to 63 of ``a-z 0-9 _ -``, the first a letter or a digit."""
    return _NAME.fullmatch(value) is not None


def check_name(kind: str, value: str) -> str:
    """Return the name if it is valid.

    Args:
        kind: the kind of thing that it names, for the error: ``"silo"``, ``"cohort"``.
        value: the name.

    Raises:
        ConfigError: the name is empty, too long, or contains other characters than ``a-z 0-9 _ -``.
    """
    if isinstance(value, str) and is_name(value):
        return value
    raise ConfigError(
        f"{value!r} is not a name for a {kind}",
        hint="use 1 to 63 of a-z, 0-9, '_' and '-', starting with a letter or a digit",
    )
