"""Removes passwords from text for people."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["ESCAPES", "has_stray_at", "without_secrets"]

ESCAPES: Final = "in user and password write / as %2F, ? as %3F, # as %23, @ as %40 and \\ as %5C"
"""The hint for a URL whose login holds a character that ends it."""

_WORD: Final = re.compile(r"\S+")
_SCHEME_END: Final = re.compile(r":/+")
"""Paths have one slash where a URL had two: a URL may have been given where a file's name belongs."""

_AUTHORITY_END: Final = re.compile(r"[/?#]")


def has_stray_at(url: str) -> bool:
    """Return whether an ``@`` occurs outside the login: after the first ``/``, ``?`` or ``#`` of the authority.

    A password that holds one of these characters unescaped ends the authority early: the rest of it would be read, and
    shown, as a port, a path, an option or a fragment. Text without ``://`` has no authority at all.
    """
    before, found, rest = url.partition("://")
    if not found:
        return "@" in before
    end = _AUTHORITY_END.search(rest)
    return "@" in before or (end is not None and "@" in rest[end.start() :])


def without_secrets(text: str) -> str:
    """Return the text with user and password of every URL in it replaced by ``***``."""
    return _WORD.sub(_redacted, text) if ":/" in text and "@" in text else text


def _redacted(word: re.Match[str]) -> str:
    """Redact up to the last ``@`` of the word: a password may hold any character, a ``/`` or another ``@`` too."""
    found = _SCHEME_END.search(word[0])
    login, at, place = word[0][found.end() :].rpartition("@") if found else ("", "", "")
    return f"{word[0][: found.end()]}***{at}{place}" if found and ":" in login else word[0]
