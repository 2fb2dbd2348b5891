"""Keys under which the C++ runtime remembers graphs: ours in place of those that computations bring.

TFF's runtime looks a graph up by a number that comes with it, ``TensorFlow.cache_key``, and runs what it has under that
number, in all executors of the process, whatever the graph is that it was given. Whoever chose the number would choose
what others' computations do, and what a policy that read the graph has never seen. So each graph gets the number that
its own content stands for, which nobody outside of this process can tell. Imports framing, protos and values.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from fedbroker.runtime.framing import Buffer, fields, framed
from fedbroker.runtime.protos import Proto, computation_pb2, executor_pb2
from fedbroker.runtime.values import ELEMENT, ELEMENT_VALUE, FEDERATED, MEMBER, STRUCT, number_of

__all__ = ["with_own_keys"]

COMPUTATION: Final = number_of(executor_pb2.Value, "computation")

KEY_BYTES: Final = 8
DEEPEST: Final = 100
"""Values in values, as protobuf itself has it."""

_SECRET: Final = secrets.token_bytes(32)

_INTO: Final = {STRUCT: ELEMENT, ELEMENT: ELEMENT_VALUE, FEDERATED: MEMBER}
"""In which field of a message further values are, by the field that it is in."""


def with_own_keys(value: Buffer) -> list[Buffer]:
    """The parts of a serialized ``executor.Value``, in which each graph has the key of its content.

    What cannot be read stays as it is, for the runtime to refuse.
    """
    try:
        return _rewritten(memoryview(value).cast("B"), 0) or [value]
    except (ValueError, DecodeError):
        return [value]


def _rewritten(value: memoryview, depth: int) -> list[Buffer] | None:
    """The parts of a value; None where it holds no computation."""
    found = list(fields(value))
    if depth > DEEPEST or len(found) != 1:
        return None
    number, content = found[0]
    if number == COMPUTATION:
        return framed(COMPUTATION, [_keyed(content)])
    if number not in (STRUCT, FEDERATED):
        return None
    inside = _inside(number, content, depth)
    return None if inside is None else framed(number, inside)


def _inside(number: int, content: memoryview, depth: int) -> list[Buffer] | None:
    """The parts of a message that holds values, or what holds values; None where there is no computation in them."""
    parts: list[Buffer] = []
    changed = False
    for inner, one in fields(content):
        new = None
        if inner == _INTO[number]:
            new = _inside(inner, one, depth) if number == STRUCT else _rewritten(one, depth + 1)
        changed = changed or new is not None
        parts += framed(inner, [one] if new is None else new)
    return parts if changed else None


def _keyed(content: memoryview) -> bytes:
    computation = computation_pb2.Computation.FromString(bytes(content))
    for one in _graphs(computation):
        if one.tensorflow.cache_key.id:
            one.tensorflow.cache_key.id = 0
            whole = one.SerializeToString(deterministic=True)
            one.tensorflow.cache_key.id = _key_of(whole)
    return bytes(computation.SerializeToString(deterministic=True))


def _key_of(computation: bytes) -> int:
    """A number that is not 0, which means that a graph is not remembered."""
    digest = hashlib.blake2b(computation, key=_SECRET, digest_size=KEY_BYTES).digest()
    return int.from_bytes(digest, "little") or 1


def _graphs(computation: Proto) -> Iterator[Proto]:
    """Every TensorFlow computation in one."""
    waiting = [computation]
    while waiting:
        one = waiting.pop()
        match one.WhichOneof("computation"):
            case "tensorflow":
                yield one
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
