"""Makes untrusted text safe to show: one line, of bounded length, without terminal control characters."""

from __future__ import annotations

import unicodedata
from typing import Final

__all__ = ["LONGEST", "LONGEST_REPR", "is_printable", "one_line_repr", "printable"]

LONGEST: Final = 4096
"""Maximal number of characters of an untrusted text; a longer one is cut."""

LONGEST_REPR: Final = 200
"""Characters of the ``repr`` of a public object: a line or two in a notebook, for an object of any size."""

_CUT: Final = "…"

# Unicode counts these as letters and marks, but they are invisible: they can hide text, or make two names look alike.
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            0x034F,
            *range(0x115F, 0x1161),
            *range(0x17B4, 0x17B6),
            *range(0x180B, 0x1810),
            0x2800,
            0x3164,
            0xFFA0,
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def printable(text: str, most: int | None = LONGEST) -> str:
    r"""Return ``text`` as one line without control characters.

    Control characters, line ends, overrides of the writing direction, zero-width and other invisible characters,
    surrogates and private-use characters are replaced by their escapes, such as ``\x1b``. Letters of all scripts, and
    spaces of any width, stay. The function is idempotent.

    Args:
        text: the untrusted text.
        most: maximal number of characters to return; None for any number. A text that is cut ends with ``…``.
    """
    if not is_printable(text):
        kept = text if most is None else text[: most + 1]  # an escape is longer than its character
        text = "".join(char if _harmless(char) else _escaped(char) for char in kept)
    return text if most is None or len(text) <= most else text[: max(0, most - 1)] + _CUT


def one_line_repr(kind: str, *parts: str) -> str:
    """Return ``kind(part, part)`` as one printable line of at most :data:`LONGEST_REPR` characters."""
    text = printable(f"{kind}({', '.join(parts)}", LONGEST_REPR - 1)
    return f"{text})"


def is_printable(text: str) -> bool:
    """Return whether :func:`printable` leaves ``text`` unchanged, apart from its length."""
    if text.isascii():
        return text.isprintable()
    return all(map(_harmless, text))


def _harmless(char: str) -> bool:
    if char.isprintable():
        return char not in _INVISIBLE
    return unicodedata.category(char) == "Zs"  # no-break and ideographic spaces, which str.isprintable() does not count


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
