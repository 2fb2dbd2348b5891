"""Waiting for a condition, with a time-out: the only way in which tests wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

LOADED: Final = 4
"""How many times as long everything takes on a small machine that runs the whole suite as on an idle one."""

PROCESS_SECONDS: Final = 60.0 * LOADED
"""Seconds within which a child process ends: importing TensorFlow Federated alone takes ten on an idle machine."""


def wait_until(condition: Callable[[], T], seconds: float = 10.0, what: str = "") -> T:
    """Return the first true value of ``condition``; raise AssertionError if it has none in time.

    Args:
        condition: called until it returns a true value.
        seconds: the time that this may take on an idle machine; a loaded one gets ``LOADED`` times as much.
        what: what is waited for, for the error.
    """
    pause = threading.Event()
    seconds *= LOADED
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        pause.wait(0.02)
