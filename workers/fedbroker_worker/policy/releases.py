"""The values that a reply releases, in words for the audit log: read from the outputs and from the computations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedbroker.graphs import Unreadable
from fedbroker.graphs.expressions import Input, Struct, Value
from fedbroker.graphs.reductions import Total
from fedbroker.runtime.protos import data_type_pb2
from fedbroker_worker.policy.intrinsics import Refused, Server, may_leave
from fedbroker_worker.policy.values import CLIENTS, SERVER, Layout, layout, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedbroker.wire.blobs import Buffer

__all__ = ["releases"]

MOST: Final = 100
"""The most different values that a line of the audit log names."""

_DTYPE_TAG: Final = 8
"""The tag of an array's dtype, its first field: field 1, a varint."""

_NAMES: Final = {"float": "float32", "double": "float64", "half": "float16", "string": "str"}


def releases(
    outputs: Sequence[Buffer], labels: Sequence[Value] = (), masked: Sequence[bool] = (), silos: int = 0
) -> list[str]:
    """Describe the values in outputs, such as ``sum of float32[10]``; equal ones once, with their number.

    Args:
        outputs: serialized values, before any of them is masked.
        labels: what the computations say about each of them; empty if they could not be read.
        masked: for each output, whether it leaves with a mask; empty if none does.
        silos: the number of silos over which a masked sum is formed.
    """
    counts: dict[str, int] = {}
    for at, output in enumerate(outputs):
        try:
            found, label = layout(output), labels[at] if len(labels) == len(outputs) else None
            texts = _masked(found, silos) if masked and masked[at] else _described(found, label)
            for text in texts:
                counts[text] = counts.get(text, 0) + 1
        except Unreadable:
            counts["a value that cannot be read"] = counts.get("a value that cannot be read", 0) + 1
    lines = [text if count == 1 else f"{text}, {count} times" for text, count in counts.items()]
    return lines if len(lines) <= MOST else [*lines[:MOST], f"{len(lines) - MOST} more"]


def _masked(found: Layout, silos: int) -> Iterator[str]:
    """Yield a text for each tensor of a masked output: who reads the reply learns no more than the sum over silos."""
    if found.kind == "array":
        yield f"masked sum of {_array_text(found)} over {silos} silos"
    for element in found.elements:
        yield from _masked(element, silos)


def _described(found: Layout, label: Value | None) -> Iterator[str]:
    """Yield a text for each tensor."""
    member = label.member if isinstance(label, Server) else label
    match found.kind:
        case kind if kind == SERVER:
            yield from _described(found.elements[0], member)
        case "struct":
            inner = member.elements if isinstance(member, Struct) else ()
            for at, element in enumerate(found.elements):
                yield from _described(element, inner[at] if at < len(inner) else _shared(member))
        case kind if kind == CLIENTS:
            yield "values of single clients"
        case "array":
            yield _kind(member).format(_array_text(found))
        case kind:
            yield f"a {kind}"


def _shared(label: Value | None) -> Value | None:
    """Return the label of each element of a struct that has one label as a whole."""
    return label if isinstance(label, Refused) else None


def _kind(label: Value | None) -> str:
    match label:
        case Input(Total(reduction=reduction)):
            return f"{reduction} of {{}}"
        case Refused():
            return "{} of an aggregate that is not recognised"
        case None:
            return "{}"
        case _:
            return "{} of the coordinator's own" if may_leave(label) else "{}"


def _array_text(array: Layout) -> str:
    shape, content = shape_of(array), array.content
    name = "?"
    if len(content) > 1 and content[0] == _DTYPE_TAG and content[1] in data_type_pb2.DataType.values():
        bare = str(data_type_pb2.DataType.Name(content[1])).removeprefix("DT_").lower()
        name = _NAMES.get(bare, bare)
    return name + (f"[{','.join(map(str, shape))}]" if shape else "")
