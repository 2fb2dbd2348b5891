"""Cache keys of TensorFlow graphs in the C++ runtime: derived from the content, not taken from the computation.

TFF's runtime looks up a graph by a number in the message, ``TensorFlow.cache_key``. It runs the graph that it has
cached under that number, in all executors of the process, even if the message carries another graph. A sender who could
choose the number could therefore change what other computations run, and bypass a policy that has read the graph. This
module replaces each number by a keyed hash of the graph's content, which cannot be predicted outside this process.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from google.protobuf.message import DecodeError

from fedbroker.runtime.protos import computation_pb2, leaves
from fedbroker.runtime.values import (
    COMPUTATION,
    ELEMENT,
    ELEMENT_VALUE,
    FEDERATED,
    MEMBER,
    STRUCT,
    Buffer,
    fields,
    framed,
)

__all__ = ["with_content_keys"]

# ``TensorFlow.cache_key.id`` is a 64-bit integer.
KEY_BYTES: Final = 8
MAX_DEPTH: Final = 100
"""Maximal nesting depth of values; the same limit as protobuf's own parser."""

_SECRET: Final = secrets.token_bytes(32)  # of this process alone, so that no sender can compute a key

_NESTED_VALUES: Final = {STRUCT: ELEMENT, ELEMENT: ELEMENT_VALUE, FEDERATED: MEMBER}
"""For each field number: the field of its message that holds further values."""


def with_content_keys(value: Buffer) -> list[Buffer]:
    """Return the parts of a serialized ``executor.Value`` in which each graph has the key of its content.

    A value that cannot be parsed is returned unchanged: the runtime rejects it.
    """
    try:
        return _rewritten(memoryview(value).cast("B"), 0) or [value]
    except (ValueError, DecodeError):
        return [value]


def _rewritten(value: memoryview, depth: int) -> list[Buffer] | None:
    """Return the rewritten parts of a value, or None if it holds no computation."""
    content_fields = list(fields(value))
    if depth > MAX_DEPTH or len(content_fields) != 1:
        return None
    number, content = content_fields[0]
    if number == COMPUTATION:
        return framed(COMPUTATION, [_keyed(content)])
    if number not in (STRUCT, FEDERATED):
        return None
    inside = _inside(number, content, depth)
    return None if inside is None else framed(number, inside)


def _inside(number: int, content: memoryview, depth: int) -> list[Buffer] | None:
    """Return the rewritten parts of a struct, its element or a federated value; None if no computation is in it."""
    parts: list[Buffer] = []
    changed = False
    for field, inner_content in fields(content):
        rewritten = None
        if field == _NESTED_VALUES[number]:
            rewritten = (
                _inside(field, inner_content, depth) if number == STRUCT else _rewritten(inner_content, depth + 1)
            )
        changed = changed or rewritten is not None
        parts += framed(field, [inner_content] if rewritten is None else rewritten)
    return parts if changed else None


def _keyed(content: memoryview) -> bytes:
    computation = computation_pb2.Computation.FromString(bytes(content))
    for leaf in leaves(computation):
        if leaf.WhichOneof("computation") == "tensorflow" and leaf.tensorflow.cache_key.id:
            leaf.tensorflow.cache_key.id = 0
            serialized = leaf.SerializeToString(deterministic=True)
            leaf.tensorflow.cache_key.id = _key_of(serialized)
    return bytes(computation.SerializeToString(deterministic=True))


def _key_of(computation: bytes) -> int:
    """Return the keyed hash of a computation; never 0, which would mean "do not cache"."""
    digest = hashlib.blake2b(computation, key=_SECRET, digest_size=KEY_BYTES).digest()
    return int.from_bytes(digest, "little") or 1
