"""Where metrics are served: an address as people write it. Imports the base only."""

from __future__ import annotations

import re
from typing import Final

from fedbroker.errors import ConfigError

__all__ = ["parse_address"]

_ADDRESS: Final = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets, port 0 is any free one.

    Raises:
        ConfigError: it is none.
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"{text!r} is no address to serve metrics at", hint='write HOST:PORT, as in "127.0.0.1:9464"')
    return match["six"] or match["host"], int(match["port"])
