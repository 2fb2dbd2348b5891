"""Text for people: untrusted text as one printable line, URLs without passwords, numbers with their units."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = [
    "ESCAPES",
    "LONGEST",
    "LONGEST_REPR",
    "bytes_text",
    "count_text",
    "has_stray_at",
    "is_printable",
    "one_line_repr",
    "printable",
    "seconds_text",
    "without_secrets",
]

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

ESCAPES: Final = "in user and password write / as %2F, ? as %3F, # as %23, @ as %40 and \\ as %5C"
"""The hint for a URL whose login holds a character that ends it."""

_WORD: Final = re.compile(r"\S+")
_SCHEME_END: Final = re.compile(r":/+")
"""Paths have one slash where a URL had two: a URL may have been given where a file's name belongs."""

_AUTHORITY_END: Final = re.compile(r"[/?#]")

_PROXY: Final = re.compile(r"([?&]proxy=)[^&\s]+")
"""The option of a broker's URL that holds a URL itself, with another password."""

KIB: Final = 1024


def printable(text: str, most: int | None = LONGEST) -> str:
    r"""Return ``text`` as one line without control characters.

    Control characters, line ends, overrides of the writing direction, zero-width and other invisible characters,
    surrogates and private-use characters are replaced by their escapes, such as ``\x1b``. Letters of all scripts, and
    spaces of any width, stay. The function is idempotent.

    Args:
        text: the untrusted text.
        most: maximal number of characters to return; None for any number. A text that is cut ends with ``…``.
    """
    if not (text.isascii() and text.isprintable()) and not is_printable(text):  # almost every name and id is ASCII
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
    """Return the text with user and password of every URL in it replaced by ``***``, and a URL's proxy, too."""
    if ":/" not in text:
        return text
    text = _PROXY.sub(r"\1***", text)
    return _WORD.sub(_redacted, text) if "@" in text else text


def _redacted(word: re.Match[str]) -> str:
    """Redact up to the last ``@`` of the word: a password may hold any character, a ``/`` or another ``@`` too."""
    found = _SCHEME_END.search(word[0])
    login, at, place = word[0][found.end() :].rpartition("@") if found else ("", "", "")
    return f"{word[0][: found.end()]}***{at}{place}" if found and ":" in login else word[0]


def seconds_text(seconds: float) -> str:
    """Return a number of seconds with its unit: three significant digits below 1,000 s, whole seconds from there on."""
    if seconds >= 999.5:  # rounds to 1,000
        return f"{seconds:,.0f} s"
    # ``g`` alone would write 1e-05 and 1e+03; three decimals are enough for a time.
    rounded = f"{float(f'{seconds:.3g}'):.3f}".rstrip("0").rstrip(".")
    return f"{rounded} s"


def bytes_text(size: int | None) -> str:
    """Return a number of bytes in a unit that suits it, with a decimal below 10: ``5.2 KiB``. ``? B`` for None."""
    if size is None:
        return "? B"
    if size < KIB:
        return f"{size} B"
    amount, units = size / KIB, ["TiB", "GiB", "MiB", "KiB"]
    while amount >= 1023.5 and len(units) > 1:  # it would round to 1,024
        amount /= KIB
        units.pop()
    rounded = f"{amount:.1f}".removesuffix(".0") if amount < 9.95 else f"{amount:,.0f}"
    return f"{rounded} {units[-1]}"


def count_text(number: int, noun: str) -> str:
    """Return a number and its noun, with a plural ``s`` unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
