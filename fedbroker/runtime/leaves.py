"""The one walk over a serialized TFF computation, shared by the policy that reads its graphs and the cache keys."""

from __future__ import annotations

from collections.abc import Iterator

from fedbroker.runtime.protos import Proto

__all__ = ["leaves"]


def leaves(computation: Proto) -> Iterator[Proto]:
    """Yield every ``Computation`` in a computation that contains no other, in an order that depends on it alone.

    A leaf is a TensorFlow computation, an intrinsic, a reference, a placement, a literal, or of an unknown kind.
    """
    waiting = [computation]
    while waiting:
        one = waiting.pop()
        match one.WhichOneof("computation"):
            case "lambda":
                waiting.append(getattr(one, "lambda").result)
            case "block":
                waiting += [local.value for local in one.block.local]
                waiting.append(one.block.result)
            case "call":
                waiting.append(one.call.function)
                if one.call.HasField("argument"):
                    waiting.append(one.call.argument)
            case "struct":
                waiting += [element.value for element in one.struct.element]
            case "selection":
                waiting.append(one.selection.source)
            case _:
                yield one
