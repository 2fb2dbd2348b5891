"""A check of the errors that inputs cause."""

from __future__ import annotations

from fedbroker.text import is_printable

__all__ = ["one_line"]


def one_line(error: object) -> None:
    """Check that an error is one printable line of bounded length."""
    assert len(str(error).splitlines()) == 1, f"not one line: {error!s}"
    assert len(str(error)) < 20_000, "a line without an end"
    assert is_printable(str(error)), f"not printable: {error!r}"
