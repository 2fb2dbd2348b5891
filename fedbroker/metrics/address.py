"""Parse the address at which metrics are served."""

from __future__ import annotations

import re
from typing import Final

from fedbroker.errors import ConfigError

__all__ = ["parse_address"]

_ADDRESS: Final = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address is in brackets, port 0 is any free port.

    Raises:
        ConfigError: the text is not an address.
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"{text!r} is no address to serve metrics at", hint='write HOST:PORT, as in "127.0.0.1:9464"')
    return match["six"] or match["host"], int(match["port"])
