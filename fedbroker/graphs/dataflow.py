"""Express the outputs of a TensorFlow graph as functions of its parameter: for graphs of a few plain ops.

A tensor computed by an op without an entry here is :class:`Computed` and not pure: nothing is concluded from it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from fedbroker.graphs.expressions import (
    NO_NAMES,
    Combined,
    Computed,
    Function,
    Input,
    Known,
    NotUnderstood,
    Struct,
    Value,
    inputs_of,
    leaves,
    select,
)
from fedbroker.graphs.graphdef import Message, Unreadable
from fedbroker.graphs.plain_ops import PURE, after_controls, evaluate_op, is_pure
from fedbroker.graphs.references import Body, Resolved, attributes, resolve, tensor_of

__all__ = ["TensorFlow"]

MAX_STEPS: Final = 100_000
"""Tensors evaluated in one call of a graph: a bound on the time that it takes."""

MAX_DEPTH: Final = 100
"""Ops in a chain: the evaluation recurses, several Python frames for each op, of which Python allows a thousand."""

Tensor: TypeAlias = tuple[bytes, int]
"""The name of a node, or of a function's argument, and the index of the output."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorFlow(Function):
    """A ``TensorFlow`` computation.

    Attributes:
        proto: the message.
        type: the message ``FunctionType`` that it is declared with.
    """

    proto: Message
    type: Message

    def call(self, argument: Value | None) -> Value:
        """Return its result; see :class:`Function`. The tensors of an unreadable graph are Computed and not pure."""
        inputs = NO_NAMES if argument is None else NO_NAMES.union(*map(inputs_of, leaves(argument)))
        try:
            return self._call(argument)
        except (NotUnderstood, Unreadable) as error:
            why = f"a graph that cannot be read: {error}"
        return _result(self.proto.result, lambda _: Computed(why, inputs, pure=False))

    def _call(self, argument: Value | None) -> Value:
        if self.proto.graph_def.type_url.rpartition("/")[2] != "tensorflow.GraphDef":
            raise NotUnderstood("it holds no graph")
        if (argument is None) != (self.proto.parameter.WhichOneof("binding") is None):
            raise NotUnderstood("it is called with too many or too few arguments")
        graph = resolve(self.proto.graph_def.value)
        fed = {} if argument is None else dict(_feeds(self.proto.parameter, argument))
        if self.proto.session_token_tensor_name:
            fed[_tensor(self.proto.session_token_tensor_name)] = Computed("a session's token", NO_NAMES, pure=False)
        frame = _Frame(graph, graph.graph, fed, _Budget())
        if self.proto.initialize_op and not is_pure(frame.tensor(_tensor(self.proto.initialize_op))):
            raise NotUnderstood("it holds a state")
        tensors = {name: frame.tensor(_tensor(name)) for name in _names(self.proto.result)}
        checks: list[Value] = [Computed("a check in a function", frame.budget.checked, pure=True)]
        # No other tensor is recognised as a total.
        checked = {
            name: after_controls(value, checks) if isinstance(value, Combined) else value
            for name, value in tensors.items()
        }
        return _result(self.proto.result, checked.__getitem__)


def _result(binding: Message, tensor: Callable[[str], Value]) -> Value:
    """Return a computation's result, with ``tensor`` called for the name of each tensor."""
    match binding.WhichOneof("binding"):
        case "struct":
            return Struct.of([_result(element, tensor) for element in binding.struct.element])
        case "tensor":
            return tensor(binding.tensor.tensor_name)
        case "sequence":
            return Computed("a sequence", NO_NAMES, pure=False)
        case _:
            raise NotUnderstood("its result is malformed")


def _names(binding: Message) -> list[str]:
    """Return the names of the tensors in a result."""
    names: list[str] = []

    def tensor(name: str) -> Value:
        names.append(name)
        return Computed(name, NO_NAMES, pure=False)

    _result(binding, tensor)
    return names


def _feeds(binding: Message, argument: Value) -> Iterator[tuple[Tensor, Value]]:
    """Yield the tensors that a parameter is fed to, each with its value."""
    seen: set[Tensor] = set()
    pending = [(binding, argument)]
    while pending:
        inner, value = pending.pop()
        match inner.WhichOneof("binding"):
            case "struct":
                if isinstance(value, Struct) and len(value.elements) != len(inner.struct.element):
                    raise NotUnderstood("its argument does not fit")
                pending += [(element, select(value, index)) for index, element in enumerate(inner.struct.element)]
                continue
            case "tensor":
                tensor = _tensor(inner.tensor.tensor_name)
            case "sequence":
                tensor = _tensor(inner.sequence.variant_tensor_name)
            case _:
                raise NotUnderstood("its parameter is malformed")
        inputs_of(value)
        if tensor in seen:
            raise NotUnderstood("two of its parameters are one tensor")
        seen.add(tensor)
        yield tensor, value


def _tensor(name: str) -> Tensor:
    """Return node and output index."""
    source = tensor_of(name)
    return source.name, source.index


@dataclass(slots=True)
class _Budget:
    """The evaluation steps that remain, and the checks in a graph; shared by nested functions.

    Attributes:
        steps: the steps that remain.
        depth: the present number of nested evaluations.
        checked: names of the inputs that decide whether a node fails that runs although the result does not need it:
            TensorFlow computes every argument of a function, all of its results, and the ops with an effect in it.
    """

    steps: int = MAX_STEPS
    depth: int = 0
    checked: frozenset[Hashable] = NO_NAMES

    def computed_anyway(self, values: Iterable[Value]) -> None:
        """Note that these tensors are computed in any case."""
        for value in values:
            if isinstance(value, Combined):
                self.checked |= value.checked
            elif not isinstance(value, Input | Known):
                self.checked |= inputs_of(value)

    def __enter__(self) -> None:
        self.steps -= 1
        self.depth += 1
        if self.steps < 0 or self.depth > MAX_DEPTH:
            raise NotUnderstood("it has too many ops, or too long a chain of them")

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


@dataclass(slots=True)
class _Frame:
    """One evaluation of a graph or a function: the values of its tensors known so far."""

    graph: Resolved
    body: Body
    fed: Mapping[Tensor, Value]
    budget: _Budget
    known: dict[Tensor, Value] = field(default_factory=dict[Tensor, Value])
    frames: dict[bytes, _Frame] = field(default_factory=dict[bytes, "_Frame"])

    def tensor(self, tensor: Tensor) -> Value:
        if tensor in self.fed:
            return self.fed[tensor]
        if tensor not in self.known:
            with self.budget:
                self.known[tensor] = self._evaluate(*tensor)
        return self.known[tensor]

    def _evaluate(self, name: bytes, output: int) -> Value:
        node = self.body.nodes.get(name)
        if node is None:
            raise NotUnderstood("it refers to a node that does not exist")
        values = [self.tensor((source.name, source.index)) for source in self.body.inputs[name]]
        controls = [self.tensor((control, 0)) for control in self.body.controls[name]]
        op = _text(node.op)
        attrs = attributes(node)
        if op in _CALLS:
            return after_controls(self._call(name, attrs, values, output), controls)
        if op == "IdentityN" and output < len(values):
            self.budget.computed_anyway(values)
            values, op, output = [values[output]], "Identity", 0
        pure = op in PURE and all(map(is_pure, (*values, *controls)))
        if pure and output == 0:
            known = evaluate_op(op, attrs, values)
            if known is not None:
                return after_controls(known, controls)
        impure = (tensor.op for tensor in (*values, *controls) if isinstance(tensor, Computed) and not tensor.pure)
        return Computed(next(impure, _printable(op)), NO_NAMES.union(*map(inputs_of, (*values, *controls))), pure)

    def _call(self, name: bytes, attrs: Mapping[bytes, Message], values: list[Value], output: int) -> Value:
        """Return an output of a node that calls one of the graph's own functions."""
        function = self.graph.functions.get(attrs[b"f"].func.name) if b"f" in attrs else None
        if function is None or len(function.arguments) != len(values) or output >= len(function.results):
            raise NotUnderstood("it calls a function that does not exist or does not match")
        results = [(source.name, source.index) for source in function.results.values()]
        if name not in self.frames:
            fed = {(argument, 0): value for argument, value in zip(function.arguments, values, strict=True)}
            self.frames[name] = frame = _Frame(self.graph, function, fed, self.budget)
            self.budget.computed_anyway(values)
            self.budget.computed_anyway(map(frame.tensor, results))
            self.budget.computed_anyway(frame.effects())
        return self.frames[name].tensor(results[output])

    def effects(self) -> Iterator[Value]:
        """Yield the nodes of a function that may run although no result needs them.

        Raises:
            NotUnderstood: the function has an effect besides failing, or TensorFlow may replace it.
        """
        message = self.graph.message.library.function[list(self.graph.functions).index(self.body.name)]
        if not _REPLACEABLE.isdisjoint(attributes(message)):
            raise NotUnderstood("TensorFlow may replace a function in it by another")
        for entry in message.control_ret:
            yield (value := self.tensor((entry.value, 0)))
            if not is_pure(value):
                raise NotUnderstood("a function in it has an effect")
        for name, node in self.body.nodes.items():
            op = _text(node.op)
            if op not in PURE or op in _NEVER_PRUNED:
                yield self.tensor((name, 0))


_CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_NEVER_PRUNED: Final = frozenset({"Assert", "Merge", "Switch"})
"""Pure ops that TensorFlow runs in a function although no result needs them."""


_REPLACEABLE: Final = frozenset({b"api_implements", b"api_preferred_device", b"backward_function_name"})
"""Attributes of a function by which TensorFlow's optimizer substitutes another function for it."""


def _printable(op: str) -> str:
    return op[:40] if op.isidentifier() and op.isascii() else "an unknown op"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
