"""Whether an SQL text is one SELECT, in whatever dialect: told by its first word and its semicolons.

A plain function that reads; what a database makes of the text is the database's to say.
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
    """The statement without a semicolon behind it, to be put in parentheses with a newline behind it.

    None where it is not one statement that begins as a SELECT does: nothing else is meant to be sent to a database,
    though a database that is told to read only is what keeps it from being written to.
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
