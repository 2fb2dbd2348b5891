"""Render numbers for people: spans of time and counts of things."""

from __future__ import annotations

__all__ = ["bytes_text", "count_text", "seconds_text"]

KIB = 1024


def seconds_text(seconds: float) -> str:
    """Return a number of seconds with its unit: three significant digits below 1,000 s, whole seconds from there on."""
    if seconds >= 999.5:  # rounds to 1,000
        return f"{seconds:,.0f} s"
    # ``g`` alone would write 1e-05 and 1e+03; three decimals are enough for a time.
    rounded = f"{float(f'{seconds:.3g}'):.3f}".rstrip("0").rstrip(".")
    return f"{rounded} s"


def bytes_text(size: int) -> str:
    """Return a number of bytes with a unit that suits it."""
    if size < KIB:
        return f"{size} B"
    return f"{size / KIB:.0f} KiB" if size < KIB * KIB else f"{size / KIB / KIB:.1f} MiB"


def count_text(number: int, noun: str) -> str:
    """Return a number and its noun, with a plural ``s`` unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
