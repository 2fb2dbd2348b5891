"""Takes passwords out of text that people will read. Imports nothing of fedbroker."""

from __future__ import annotations

import re

__all__ = ["without_secrets"]

_USER_INFO = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]*:[^\s/'\"]*@", flags=re.IGNORECASE)


def without_secrets(text: str) -> str:
    """The text with user and password of every URL in it replaced by ``***``."""
    return _USER_INFO.sub(r"\g<scheme>***@", text)
