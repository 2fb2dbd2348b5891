"""Recognise one SELECT in SQL text of any dialect, by its first word and its semicolons.

The text is only scanned, not parsed: the database decides whether it is valid.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["one_select"]

_TOKEN: Final = re.compile(
    r"""
      --[^\n]*                          # comments
    | /\*.*?(?:\*/|\Z)
    | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$   # PostgreSQL's strings
    | '(?:[^']|'')*'                    # strings and names
    | "(?:[^"]|"")*"
    | `[^`]*`
    | \s+
    | (?P<word>\w+)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_FIRST: Final = ("select", "with", "values", "table")


def one_select(text: str) -> str | None:
    """Return the statement without a final semicolon; callers put it in parentheses, with a newline after it.

    None if the text is not one statement that begins like a SELECT. This check catches mistakes; only a database that
    is told to read only prevents writes.
    """
    told = [match for match in _TOKEN.finditer(text) if match["word"] or match["mark"]]
    opening = next((match for match in told if match["mark"] != "("), None)
    if opening is None or (opening["word"] or "").lower() not in _FIRST:
        return None
    ends = [match.start() for match in told if match["mark"] == ";"]
    if not ends:
        return text.strip()
    behind = [match for match in told if match.start() > ends[0] and match["mark"] != ";"]
    return None if behind else text[: ends[0]].strip()
