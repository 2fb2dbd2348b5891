"""System calls, through the C library, that Python 3.11 has no function for.

Runs in the small host process: standard library only.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["call"]


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library that returns -1 and sets errno on failure.

    Integers are passed as ``long``, which ``syscall(2)`` needs and every other function accepts.

    Raises:
        OSError: the call failed; the message names the function.
    """
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    result = int(function(*(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result
