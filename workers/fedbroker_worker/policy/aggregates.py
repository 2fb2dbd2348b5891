"""The kinds of values that leave with a work item: recognised aggregates, the coordinator's own values, or others.

They are known before the work item runs: its operations are followed one by one. Each value has a label
(:mod:`fedbroker.graphs.expressions`, with the kinds of :mod:`fedbroker_worker.policy.intrinsics`). A session keeps the
labels together with its values.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from fedbroker.graphs import Unreadable
from fedbroker.graphs.calculus import Evaluator
from fedbroker.graphs.expressions import (
    Combined,
    Computed,
    Function,
    Input,
    NotUnderstood,
    Struct,
    Value,
    leaves,
    select,
)
from fedbroker.graphs.reductions import Total
from fedbroker.lru import LruMap
from fedbroker.runtime.protos import computation_pb2
from fedbroker.runtime.values import is_dealt
from fedbroker.wire import messages
from fedbroker_worker.errors import PolicyRefused, WorkRefused
from fedbroker_worker.policy import rules
from fedbroker_worker.policy.intrinsics import GIVEN, Clients, Refused, Server, intrinsic, is_given, may_leave
from fedbroker_worker.policy.values import Layout, layout, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping, Sequence

    from fedbroker.runtime.protos import Proto
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Op
    from fedbroker_worker.policy.rules import PolicySettings

__all__ = ["Aggregates", "check_dealt", "check_labels", "check_shapes"]

MAX_CACHED: Final = 1024
"""The most calls whose results are cached: each round of a training sends the same computations.

Far more than the computations of the programs that run at a time.
"""

RULE: Final = "aggregates"
"""The key of ``[policy]`` that the refusals here name."""

_REFUSAL: Final = "only sums, counts, minima and maxima over clients may leave, and the result holds something else"

_NOT_MASKED: Final = "only masked sums may leave, and the result holds an aggregate without a mask"

_MASK: Final = (
    "use secure sums only (federated_secure_sum, or tff.learning.secure_aggregator with"
    ' metrics_aggregator=secure_sum_then_finalize) and Options(secure_sum="masked")'
)

_DEALT: Final = "only masked sums may leave, and the coordinator deals values to single clients, which could pick one"

_BROADCAST: Final = "pass values at the server, and broadcast them"

_OTHER_SHAPE: Final = "a masked aggregate came out in another shape than its computation declares"

_FIXED_SHAPE: Final = "let each client have a tensor of that shape"

_HINT: Final = (
    "aggregate by sums, means, counts, minima or maxima of tensors of fixed shapes, or have the silo's administrator"
    ' set aggregates = "any"'
)


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded(Function):
    """A computation that came as a value; parsed when it is called.

    Attributes:
        key: the digest of its blob, and its number in that blob.
        content: the serialized ``Computation``.
    """

    key: tuple[Digest, int]
    content: Buffer

    def __hash__(self) -> int:
        """Return the hash of the key."""
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        """Return whether the keys are equal."""
        return isinstance(other, _Loaded) and other.key == self.key

    def call(self, argument: Value | None) -> Value:
        """See :class:`Function`."""
        count = 0

        def number() -> int:
            nonlocal count
            count += 1
            return count

        try:
            proto: Proto = computation_pb2.Computation.FromString(bytes(self.content))
        except DecodeError:
            raise NotUnderstood("it is malformed") from None
        function = Evaluator(lambda uri: intrinsic(uri, number)).evaluate(proto)
        if not isinstance(function, Function):
            raise NotUnderstood("it calls something that is no function")
        return _counted(function.call(argument), count)


def _counted(value: Value, count: int) -> Value:
    """Return the value with the number of aggregates set in each refused aggregate."""
    match value:
        case Struct():
            return Struct.of([_counted(element, count) for element in value.elements])
        case Server(Refused() as refused):
            return Server(replace(refused, of=count))
        case _:
            return value


class Aggregates:
    """The labels of work items' outputs. The results for recent computations are cached."""

    def __init__(self) -> None:
        self._cache: LruMap[tuple[tuple[Digest, int], Value | None], Value] = LruMap(MAX_CACHED)

    def follow(
        self, ops: Sequence[Op], blobs: Mapping[Digest, Buffer], labels: MutableMapping[int, Value]
    ) -> list[Value]:
        """Follow a work item's operations before they run.

        Args:
            ops: the operations.
            blobs: the content of every digest that it names.
            labels: the labels of the session's values, by the coordinator's ids; changed in place.

        Returns:
            The label of each output.

        Raises:
            PolicyRefused: one of its computations cannot be analysed.
            WorkRefused: it names a value that the session does not have.
        """

        def label_of(ref: int) -> Value:
            if ref not in labels:
                raise WorkRefused(f"the work item uses value {ref}, which this session does not have")
            return labels[ref]

        outputs: list[Value] = []
        try:
            for op in ops:
                match op:
                    case messages.Value(ref, blob):
                        labels[ref] = _label(blob, layout(blobs[blob]))
                    case messages.Data(ref) | messages.Seeds(ref):
                        labels[ref] = Clients(data=True, dealt=False)
                    case messages.Struct(ref, elements):
                        labels[ref] = Struct.of([label_of(element) for _, element in elements])
                    case messages.Select(ref, source, index):
                        labels[ref] = select(label_of(source), index)
                    case messages.Call(ref, function, argument):
                        labels[ref] = self._call(label_of(function), None if argument is None else label_of(argument))
                    case messages.Compute(ref):
                        outputs.append(label_of(ref))
                    case messages.Drop(refs):
                        for ref in refs:
                            labels.pop(ref, None)
        except (NotUnderstood, Unreadable, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise PolicyRefused(RULE, f"a computation cannot be read: {why}", hint=_HINT) from None
        return outputs

    def _call(self, function: Value, argument: Value | None) -> Value:
        if not isinstance(function, _Loaded):
            raise NotUnderstood("it calls something that is no function")
        key = (function.key, argument)
        result = self._cache.use(key)
        if result is None:
            result = self._cache[key] = function.call(argument)
        return result


def _label(digest: Digest, value: Layout) -> Value:
    """Return the label of a serialized value that the coordinator sent."""
    counter = itertools.count()

    def label(part: Layout) -> Value:
        match part.kind:
            case "struct":
                return Struct.of([label(element) for element in part.elements])
            case "computation":
                return _Loaded((digest, next(counter)), part.content)
            case "server":
                return Server(GIVEN)
            case "clients":
                return Clients(data=False, dealt=part.dealt)
            case _:
                return GIVEN

    return label(value)


def check_labels(policy: PolicySettings, outputs: Sequence[Value], masked: Sequence[bool] = ()) -> None:
    """Check that only recognised or masked aggregates and the coordinator's own values leave.

    A masked aggregate need not be recognised, since only the sum over all silos is learnt. But its shape leaves in the
    clear, so that it must be known before anything is computed.

    Args:
        policy: the policy.
        outputs: the label of each output.
        masked: for each output, whether it is masked; empty if none is.

    Raises:
        PolicyRefused: an output holds another value.
    """
    for output, is_masked in zip(outputs, masked or [False] * len(outputs), strict=True):
        for leaf in leaves(output):
            if isinstance(leaf, Clients):
                rules.refuse_client_values(policy)
                continue
            for member in leaves(leaf.member) if isinstance(leaf, Server) else [leaf]:
                if policy.aggregates == "masked" and not is_masked and not is_given(member):
                    raise PolicyRefused(RULE, _NOT_MASKED, hint=_MASK)
                if is_masked and isinstance(member, Refused) and member.shapes is not None:
                    continue
                if not may_leave(member):
                    raise PolicyRefused(RULE, _REFUSAL, hint=f"{_described(member)}; {_HINT}")


def check_dealt(policy: PolicySettings, ops: Iterable[Op], blobs: Mapping[Digest, Buffer]) -> None:
    """Check that no value is dealt to single clients where only masked sums may leave.

    Silos of one sum may be dealt different values, such as a factor of 1 for one silo and of 0 for all others.

    Raises:
        PolicyRefused: a value is.
    """
    if policy.aggregates == "masked" and any(is_dealt(blobs[op.blob]) for op in ops if isinstance(op, messages.Value)):
        raise PolicyRefused(RULE, _DEALT, hint=_BROADCAST)


def _arrays(value: Layout) -> list[Layout]:
    if value.kind == "struct":
        return [array for element in value.elements for array in _arrays(element)]
    if value.kind != "array":
        raise Unreadable("it is no tensor")
    return [value]


def _described(member: Value) -> str:
    match member:
        case Refused(number, type_, why, of):
            return f"aggregate {number} of {of}, of type {type_}: {why}"
        case Combined() | Computed():
            return "the silo would compute with an aggregate after it was taken: return it as it is"
        case _:
            return "the silo would return something that is no aggregate"


def check_shapes(outputs: Sequence[Buffer], labels: Sequence[Value]) -> None:
    """Check that aggregates have the shapes that they were recognised with, or that their computations declare.

    Raises:
        PolicyRefused: an aggregate has another shape, which depends on the clients' values.
    """
    try:
        for output, label in zip(outputs, labels, strict=True):
            _check_shape(layout(output), label)
    except Unreadable:
        what = "an output has another structure than the aggregates in it"
        raise PolicyRefused(RULE, what, by_data=True) from None


def _check_shape(found: Layout, label: Value) -> None:
    match label:
        case Struct(elements):
            if found.kind != "struct" or len(found.elements) != len(elements):
                raise Unreadable("it is no struct of as many elements")
            for found_element, element in zip(found.elements, elements, strict=True):
                _check_shape(found_element, element)
        case Server(member):
            if found.kind != "server":
                raise Unreadable("it is no value at the server")
            _check_shape(found.elements[0], member)
        case Refused(shapes=shapes):
            if tuple(map(shape_of, _arrays(found))) != shapes:
                raise PolicyRefused(RULE, _OTHER_SHAPE, hint=_FIXED_SHAPE, by_data=True)
        case Input(Total() as total):
            if found.kind != "array" or shape_of(found) != total.shape:
                raise PolicyRefused(
                    RULE,
                    f"an aggregate that should be {total} came out in another shape, one that clients' values have",
                    hint=_FIXED_SHAPE,
                    by_data=True,
                )
        case _:
            pass
