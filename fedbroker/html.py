"""HTML for notebooks: escaped text, tables and bars, readable on light and dark pages, without any resource.

Styles are attributes, since a notebook that is not trusted loses its style sheets. Colours are those of the page, apart
from the bars, whose colours stand out on both.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from fedbroker.text import printable

__all__ = [
    "COMPUTE",
    "DROPPED",
    "QUEUE",
    "TRANSFER",
    "WAITING",
    "Markup",
    "bar",
    "box",
    "element",
    "joined",
    "muted",
    "table",
]

QUEUE: Final = "#9a8fd1"
TRANSFER: Final = "#3f8fd8"
COMPUTE: Final = "#2e9e6b"
DROPPED: Final = "#d9534f"
WAITING: Final = "rgba(128,128,128,0.55)"

_LONGEST: Final = 300
"""Characters of one text: a cell of a table, not a page."""

_BOX: Final = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.5;color:inherit;overflow-x:auto"
_CELL: Final = "text-align:left;padding:1px 14px 1px 0;border:0;background:none;white-space:nowrap;color:inherit"
_NUMBER: Final = _CELL.replace("left", "right", 1)
_TRACK: Final = (
    "display:inline-block;width:{width}px;height:10px;background:rgba(128,128,128,0.2);border-radius:2px;"
    "overflow:hidden;white-space:nowrap;font-size:0;vertical-align:middle"
)


class Markup(str):
    """Text that is HTML already; all other text is escaped where it becomes part of HTML."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: str) -> Markup:
    """Return an element; attributes are escaped, and children are unless they are :class:`Markup`."""
    named = "".join(f' {name.replace("_", "-")}="{_escaped(value, None)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{named}>{joined(children)}</{tag}>")


def joined(parts: Iterable[object], separator: str = "") -> Markup:
    """Return parts as one piece of HTML, each escaped unless it is :class:`Markup`."""
    return Markup(separator.join(part if isinstance(part, Markup) else _escaped(str(part)) for part in parts))


def box(*children: object) -> Markup:
    """Return the outermost element of an object."""
    return element("div", *children, style=_BOX)


def muted(*children: object) -> Markup:
    """Return text of less weight."""
    return element("span", *children, style="opacity:0.7")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> Markup:
    """Return a table; columns whose index is in ``numbers`` are aligned to the right."""
    right = set(numbers)
    styles = [_NUMBER if at in right else _CELL for at in range(len(head))]
    top = joined(
        element("th", name, scope="col", style=f"{style};font-weight:600;opacity:0.7")
        for name, style in zip(head, styles, strict=True)
    )
    body = joined(
        element(
            "tr",
            *(element("td", cell, style=style) for cell, style in zip(row, styles, strict=True)),
            style="background:none",
        )
        for row in rows
    )
    shown = element("thead", element("tr", top, style="background:none")) if any(head) else Markup()
    return element("table", shown, element("tbody", body), style="border-collapse:collapse;border:0;margin:4px 0")


def bar(parts: Sequence[tuple[float, str]], label: str, width: int = 160) -> Markup:
    """Return a bar.

    Args:
        parts: fractions of its width, from 0 to 1, each with a colour.
        label: its text, for readers of screens and on hovering.
        width: its width in pixels.
    """
    left, segments = 1.0, list[Markup]()
    for fraction, colour in parts:
        fraction = min(max(fraction, 0.0), left)
        left -= fraction
        style = f"display:inline-block;height:10px;width:{fraction * 100:.1f}%;background:{colour}"
        segments.append(element("span", style=style))
    return element("span", *segments, role="img", aria_label=label, title=label, style=_TRACK.format(width=width))


def _escaped(text: str, most: int | None = _LONGEST) -> str:
    return html.escape(printable(text, most))
