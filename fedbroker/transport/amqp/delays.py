"""Delays between attempts to connect to the broker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

__all__ = ["FIRST_DELAY", "MAX_DELAY", "MAX_REFUSAL_DELAY", "delays", "refusal_delays"]

FIRST_DELAY: Final = 0.1
"""Seconds: most losses are a restart of a proxy or a node, and the next host answers at once."""
MAX_DELAY: Final = 10.0
"""Seconds: a broker that is back is noticed soon, and one that is down is not flooded with attempts."""
FIRST_REFUSAL_DELAY: Final = 2.0
"""Seconds after the first refusal: a broker that is starting may refuse a login for a moment."""
MAX_REFUSAL_DELAY: Final = 60.0
"""Seconds: a corrected password is noticed within a minute, and a thousand silos add 17 lines a second to its log."""


def delays(spread: float = FIRST_DELAY) -> Iterator[float]:
    """Yield the seconds to wait before each attempt to reconnect.

    The first delay is random within ``spread``, because all clients of a broker lose it at the same moment. Then the
    delay doubles, up to the longer of 10 s and ``spread``, and is shortened at random by up to a half.
    """
    yield random.uniform(0.0, spread)
    longest = spread
    while True:
        longest = max(spread, min(2 * longest, MAX_DELAY))
        yield longest * random.uniform(0.5, 1.0)


def refusal_delays() -> Iterator[float]:
    """Yield the seconds to wait after each refusal: only an operator can change its cause, and the broker logs each.

    The delay doubles from 2 s to a minute, and is shortened at random by up to a half.
    """
    longest = FIRST_REFUSAL_DELAY
    while True:
        yield longest * random.uniform(0.5, 1.0)
        longest = min(2 * longest, MAX_REFUSAL_DELAY)
