"""A work item in words, for the silo's administrator: made at the silo, from the bytes that came, without TensorFlow.

It says which data are read, which computations are called, what these consist of and return, and what leaves. Names and
types in it are the coordinator's; the kinds of aggregates are what the silo itself finds.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from fedbroker.graphs import Unreadable, ops_of_computation
from fedbroker.graphs.reading import graphs_of_computation
from fedbroker.graphs.tensors import type_text
from fedbroker.runtime.protos import computation_pb2, leaves
from fedbroker.text import bytes_text, count_text, printable
from fedbroker.wire import messages
from fedbroker_worker.errors import PolicyRefused
from fedbroker_worker.journal.entry import columns_of
from fedbroker_worker.journal.following import kinds_given, kinds_sent
from fedbroker_worker.policy import rules
from fedbroker_worker.policy.values import parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedbroker.runtime.protos import Proto
    from fedbroker.wire.messages import Digest, Op, Source
    from fedbroker_worker.policy.rules import PolicySettings

__all__ = ["account_of"]

MOST_LINES: Final = 200
LONGEST_LINE: Final = 500
MOST_COMPUTATIONS: Final = 20
MOST_KINDS: Final = 12
"""The most ops that are named; further ones are counted. A model has dozens of kinds."""

_PLUMBING: Final = frozenset({b"Const", b"Identity", b"IdentityN", b"NoOp", b"Placeholder", b"_Arg", b"_Retval"})
"""Ops that compute nothing: they are counted, not named."""


def account_of(
    ops: Sequence[Op],
    blobs: Mapping[Digest, bytes],
    policy: PolicySettings,
    sources: Mapping[str, Source] | None = None,
) -> list[str]:
    """Describe a work item; lines that begin with two spaces belong to the line before them.

    Args:
        ops: its operations.
        blobs: the computations that came with it, by digest; others are values, or are no longer kept.
        policy: the silo's policy.
        sources: the silo's data sources as announced, for the names of columns.
    """
    lines = [
        printable(line, LONGEST_LINE)
        for line in itertools.islice(_lines(ops, blobs, policy, sources or {}), MOST_LINES + 1)
    ]
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], "and more"]


def _lines(
    ops: Sequence[Op], blobs: Mapping[Digest, bytes], policy: PolicySettings, sources: Mapping[str, Source]
) -> Iterator[str]:
    for op in ops:
        if isinstance(op, messages.Data):
            columns = ", ".join(f"{name} as {dtype}" for name, dtype in columns_of(op, sources))
            per = "one row of each client" if op.scalar else "all rows of each client"
            yield f"reads source {op.name!r}: {columns or 'no column'}; {per}"
    values = sum(isinstance(op, messages.Value) and op.blob not in blobs for op in ops)
    if values:
        yield f"gets {count_text(values, 'value')} from the coordinator, which hold no data of this silo"
    made = {op.ref for op in ops if not isinstance(op, messages.Compute | messages.Drop)}
    if any(isinstance(op, messages.Seeds) for op in ops):
        yield "makes a seed of each client for the order of its rows"
    used = {ref for op in ops if not isinstance(op, messages.Drop) for ref in op.uses}
    if used - made:
        yield f"goes on with {count_text(len(used - made), 'value')} of an earlier stage of the session"
    yield from _computations(ops, blobs, policy)
    sent = kinds_sent(ops, blobs)
    yield f"sends {count_text(len(sent), 'output')} to the coordinator" if sent else "sends nothing"
    for number, kinds in enumerate(sent, 1):
        yield f"  {number}: {kinds}"


def _computations(ops: Sequence[Op], blobs: Mapping[Digest, bytes], policy: PolicySettings) -> Iterator[str]:
    called = Counter(op.function for op in ops if isinstance(op, messages.Call))
    loaded = [op for op in ops if isinstance(op, messages.Value) and op.blob in blobs]
    for op in loaded[:MOST_COMPUTATIONS]:
        times = called.get(op.ref, 0)
        use = {0: "gets", 1: "calls"}.get(times, f"calls {times} times")
        try:
            found = [content for kind, content in parts(blobs[op.blob]) if kind == "computation"]
        except Unreadable as error:
            yield f"{use} a computation that cannot be read: {error}"
            continue
        for content in found[:MOST_COMPUTATIONS]:
            yield from _computation(bytes(content), use, policy)
    if len(loaded) > MOST_COMPUTATIONS:
        yield f"and {count_text(len(loaded) - MOST_COMPUTATIONS, 'further computation')}"


def _computation(content: bytes, use: str, policy: PolicySettings) -> Iterator[str]:
    try:
        proto: Proto = computation_pb2.Computation.FromString(content)
    except DecodeError:
        yield f"{use} a computation that is malformed"
        return
    yield f"{use} a computation of {bytes_text(len(content))}, of type {type_text(proto.type)}"
    operators = Counter(
        str(leaf.intrinsic.uri) for leaf in leaves(proto) if leaf.WhichOneof("computation") == "intrinsic"
    )
    if operators:
        yield f"  applies {_counts(operators.most_common())}"
    yield from _tensorflow(content, policy)
    if given := kinds_given(proto):  # that need not leave the silo
        yield f"  gives {given}"


def _tensorflow(content: bytes, policy: PolicySettings) -> Iterator[str]:
    """Yield what the TensorFlow graphs in a computation consist of, and what the policy refuses in them."""
    try:
        graphs = list(graphs_of_computation(content))
        kinds: Counter[bytes] = Counter()
        for graph in graphs:
            for body in graph.bodies:
                kinds.update(node.op for node in body.nodes.values() if node.op not in graph.functions)
        if graphs:
            shown = [
                (op.decode("utf-8", "backslashreplace"), n) for op, n in kinds.most_common() if op not in _PLUMBING
            ]
            what = f"{count_text(len(graphs), 'TensorFlow graph')} with {count_text(kinds.total(), 'op')}"
            yield f"  runs {what}: {_counts(shown) or 'none that computes'}"
        rules.check_ops(policy, ops_of_computation(content))
    except Unreadable as error:
        yield f"  holds a graph that cannot be read: {error}"
    except PolicyRefused as error:
        yield f"  {error.what}"


def _counts(found: Sequence[tuple[str, int]]) -> str:
    """Return names with their numbers, the most frequent first."""
    shown = [f"{name} {number} times" if number > 1 else name for name, number in found[:MOST_KINDS]]
    more = len(found) - MOST_KINDS
    return ", ".join([*shown, *([f"and {more} other kinds"] if more > 0 else [])])
