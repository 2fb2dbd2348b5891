"""Types as TFF writes them, for messages to people only: no decision may depend on them."""

from __future__ import annotations

from typing import Final

from fedbroker.graphs.graphdef import Message
from fedbroker.graphs.tensors import DTYPES, dtype_name

__all__ = ["LONGEST", "type_text"]

LONGEST: Final = 120  # characters: a type is part of a one-line error

_OTHERS: Final = {7: "string", 10: "bool"}


def type_text(type_: Message) -> str:
    """Return a type in one short printable line."""
    text = _text(type_, 0)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _text(type_: Message, depth: int) -> str:
    kind = type_.WhichOneof("type") if type_ is not None and depth < 20 else None
    match kind:
        case "tensor":
            dtype = type_.tensor.dtype
            name = dtype_name(dtype) if dtype in DTYPES else _OTHERS.get(dtype, "?")
            dims = ",".join("?" if dim < 0 else str(dim) for dim in type_.tensor.dims[:10])
            return f"{name}(unknown rank)" if type_.tensor.unknown_rank else name + (f"[{dims}]" if dims else "")
        case "struct":
            elements = type_.struct.element[:LONGEST]
            return f"<{','.join(_name(one.name) + _text(one.value, depth + 1) for one in elements)}>"
        case "sequence":
            return f"{_text(type_.sequence.element, depth + 1)}*"
        case _:
            return "?"


def _name(name: str) -> str:
    return f"{name[:40]}=" if name.isascii() and name.isidentifier() else ""
