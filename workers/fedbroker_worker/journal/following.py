"""The kinds of values that a computation gives and that a work item sends, found without running anything.

Nothing is decided by this: the policy follows operations by itself, with the values of the session.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from fedbroker.graphs import Unreadable
from fedbroker.graphs.calculus import Evaluator
from fedbroker.graphs.expressions import Function, Input, NotUnderstood, Struct, select
from fedbroker.graphs.reductions import Total
from fedbroker.runtime.protos import computation_pb2
from fedbroker.wire import messages
from fedbroker_worker.policy.intrinsics import GIVEN, Clients, Refused, Server, intrinsic, is_given
from fedbroker_worker.policy.values import parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fedbroker.graphs.expressions import Value
    from fedbroker.runtime.protos import Proto
    from fedbroker.wire.messages import Digest, Op

__all__ = ["kinds_given", "kinds_sent"]

MOST_KINDS: Final = 12
"""The most kinds of one result that are named; further ones are counted."""

MAX_DEPTH: Final = 50
"""Nested structs of a parameter; protobuf allows a hundred messages."""

_UNKNOWN: Final = "a value that is not known before it is computed"


def kinds_given(proto: Proto) -> str:
    """Return the kinds of values that a function gives; empty for anything else than a function.

    Clients' values in its argument are taken for the silo's data, all others for the coordinator's.
    """
    try:
        function = _evaluated(proto)
        if not isinstance(function, Function):
            return ""
        of = proto.type.function
        argument = _abstract(of.parameter, 0) if of.HasField("parameter") else None
        return _text(function.call(argument))
    except (NotUnderstood, Unreadable) as error:
        return f"a result that cannot be known before it runs: {error}"
    except RecursionError:
        return "a result that cannot be known before it runs: it is nested too deeply"


def kinds_sent(ops: Sequence[Op], blobs: Mapping[Digest, bytes]) -> list[str]:
    """Return the kind of each output of a work item.

    Args:
        ops: its operations.
        blobs: the computations among its blobs; all others count as values of the coordinator.
    """
    known: dict[int, Value | None] = {}
    sent: list[str] = []
    for op in ops:
        match op:
            case messages.Compute(ref):
                value = known.get(ref)
                sent.append(_UNKNOWN if value is None else _text(value))
            case messages.Drop():
                pass
            case _:
                try:
                    known[op.ref] = _followed(op, known, blobs)
                except (NotUnderstood, Unreadable, DecodeError, RecursionError):
                    known[op.ref] = None
    return sent


def _followed(
    op: messages.Value | messages.Data | messages.Seeds | messages.Struct | messages.Select | messages.Call,
    known: Mapping[int, Value | None],
    blobs: Mapping[Digest, bytes],
) -> Value | None:
    """Return the value that an operation makes; None if it is not known."""
    match op:
        case messages.Value(_, blob):
            return _loaded(blobs[blob]) if blob in blobs else GIVEN
        case messages.Data() | messages.Seeds():  # the policy counts seeds as data, too
            return Clients(data=True, dealt=False)
        case messages.Struct(_, elements):
            found = [known.get(element) for _, element in elements]
            whole = [element for element in found if element is not None]
            return Struct.of(whole) if len(whole) == len(found) else None
        case messages.Select(_, source, index):
            whole_source = known.get(source)
            return None if whole_source is None else select(whole_source, index)
        case messages.Call(_, function, argument):
            called, given = known.get(function), None if argument is None else known.get(argument)
            if not isinstance(called, Function) or (argument is not None and given is None):
                return None
            return called.call(given)


def _loaded(blob: bytes) -> Value | None:
    """Return the one function in a blob; None if it holds several."""
    found = [content for kind, content in parts(blob) if kind == "computation"]
    return _evaluated(computation_pb2.Computation.FromString(bytes(found[0]))) if len(found) == 1 else None


def _evaluated(proto: Proto) -> Value:
    numbers = itertools.count(1)
    return Evaluator(lambda uri: intrinsic(uri, lambda: next(numbers))).evaluate(proto)


def _abstract(type_: Proto, depth: int) -> Value:
    match type_.WhichOneof("type") if depth < MAX_DEPTH else None:
        case "federated" if type_.federated.placement.value.uri == "clients":
            return Clients(data=True, dealt=False)
        case "federated":
            return Server(GIVEN)
        case "struct":
            return Struct.of([_abstract(element.value, depth + 1) for element in type_.struct.element])
        case _:
            return GIVEN


def _text(value: Value) -> str:
    counts = Counter(_kinds(value))
    found = [text + (f", {number} times" if number > 1 else "") for text, number in counts.most_common(MOST_KINDS)]
    more = len(counts) - MOST_KINDS
    return "; ".join([*found, *([f"and {more} other kinds"] if more > 0 else [])]) or "nothing"


def _kinds(value: Value) -> Iterator[str]:
    """Yield a text for each tensor of a result."""
    match value:
        case Struct(elements):
            for element in elements:
                yield from _kinds(element)
        case Server(member):
            yield from _kinds(member)
        case Clients():
            yield "values of single clients"
        case Input(Total() as total):
            yield f"the {total.reduction} over clients of {total}"
        case Refused(type=type_, why=why):
            yield f"an aggregate of type {type_} that is not recognised: {why}"
        case Function():
            yield "a function"
        case _:
            yield "a value of the coordinator's own" if is_given(value) else "a value computed from aggregates"
