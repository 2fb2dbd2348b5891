"""A graph and its functions with every reference resolved, by the rules of TensorFlow's own importer.

In a graph an input is ``node``, ``node:2`` or ``^node``. In a function's body it is ``argument``, ``argument:0``,
``node:output:2`` or ``^name``. TensorFlow resolves each in a table of its own (``graph_constructor.cc``, and
``InstantiateFunction`` in ``function.cc``). A graph is refused if that table could hold something else than a reader
expects: two things of the same name, a name that looks like a reference, a function named like an op. Functions of
lists are refused, too: one name stands for many tensors there, and TensorFlow's Python makes none. So are functions
whose attributes have defaults: a node that calls one gets attributes, and so other functions or ops, that it does not
show.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedbroker.graphs.graphdef import Message, Unreadable, known_ops, parse

__all__ = ["MAX_NODES", "Body", "Resolved", "Source", "attributes", "functions_in", "node_of", "resolve", "tensor_of"]

MAX_NODES: Final = 1_000_000
"""Nodes of a graph and its functions: a bound on the time and memory that reading takes."""

_NAME: Final = rb"[A-Za-z0-9._\\/>-]+"
"""The characters that TensorFlow allows in a node's name."""

_IS_NAME: Final = re.compile(_NAME)
_INDEXED: Final = re.compile(rb"(%s)(?::(0|[1-9][0-9]{0,8}))?" % _NAME)
_OF_NODE: Final = re.compile(rb"(%s):([A-Za-z_][A-Za-z0-9_]*):(0|[1-9][0-9]{0,8})" % _NAME)


@dataclass(frozen=True, slots=True)
class Source:
    """The tensor that an input or a result refers to.

    Attributes:
        name: of the node, or of the function's argument.
        index: of the tensor: among all outputs of the node in a graph; in a function among the tensors of one output.
        output: the node's output, by name, in a function; empty in a graph, and of an argument.
        is_argument: the name is an argument of the function.
    """

    name: bytes
    index: int = 0
    output: bytes = b""
    is_argument: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """The nodes of a graph, or of one of its functions.

    Attributes:
        name: of the function; empty for the graph.
        arguments: names of the function's arguments, in order.
        results: the source of each of the function's results, by name, in order.
        nodes: by name, in order.
        inputs: the tensors that a node takes, by the node's name, in order.
        controls: the nodes and arguments that a node waits for, by the node's name.
    """

    name: bytes
    arguments: Sequence[bytes]
    results: Mapping[bytes, Source]
    nodes: Mapping[bytes, Message]
    inputs: Mapping[bytes, Sequence[Source]]
    controls: Mapping[bytes, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A graph and its functions.

    Attributes:
        graph: the graph's own nodes.
        functions: by name, including functions that nothing calls.
        message: the whole message as it was read.
    """

    graph: Body
    functions: Mapping[bytes, Body]
    message: Message

    @property
    def bodies(self) -> Iterator[Body]:
        """Yield the graph, and each function."""
        yield self.graph
        yield from self.functions.values()


def resolve(serialized: bytes) -> Resolved:
    """Read a ``GraphDef``.

    Raises:
        Unreadable: it is malformed or too large, or a reference in it has no meaning or could have two.
    """
    graph = parse(serialized)
    library = graph.library.function
    if len(graph.node) + sum(len(function.node_def) for function in library) > MAX_NODES:
        raise Unreadable(f"a graph in it has more than {MAX_NODES} nodes")
    names = _unique((function.signature.name for function in library), "functions")
    if not _op_names().isdisjoint(names) or b"" in names:
        raise Unreadable("a function in it has the name of an op, or none")
    _unique((gradient.function_name for gradient in graph.library.gradient), "gradients")
    functions = {function.signature.name: _function(function) for function in library}
    return Resolved(_Scope(graph.node).body(b"", {}), functions, graph)


def tensor_of(name: str) -> Source:
    """Return the tensor in a graph that the name of a fed or fetched tensor refers to.

    Raises:
        Unreadable: it is not the name of a tensor.
    """
    return _indexed(name.encode("utf-8", "surrogatepass"))


def node_of(tensor: str) -> bytes:
    """Return the node in a graph that the name of a fed or fetched tensor belongs to.

    Raises:
        Unreadable: it is not the name of a tensor.
    """
    return tensor_of(tensor).name


def attributes(owner: Message) -> dict[bytes, Message]:
    """Return the attributes of a node, a function or the call of a function, by name.

    Raises:
        Unreadable: an attribute occurs twice.
    """
    by_name = {entry.key: entry.value for entry in owner.attr}
    if len(by_name) != len(owner.attr):
        raise Unreadable("an attribute in it occurs twice")
    return by_name


def functions_in(owner: Message) -> Iterator[bytes]:
    """Yield the names of all functions in the attributes of a node, a function or a call, however deeply nested.

    Raises:
        Unreadable: an attribute occurs twice.
    """
    pending = [owner]
    while pending:
        for value in attributes(pending.pop()).values():
            kind = value.WhichOneof("value")
            called = [value.func] if kind == "func" else value.list.func if kind == "list" else ()
            yield from (function.name for function in called)
            pending += called


def _function(function: Message) -> Body:
    signature = function.signature
    arguments = _checked_names((item.name for item in signature.input_arg), "arguments of a function")
    outputs = _checked_names((item.name for item in signature.output_arg), "results of a function")
    if any(item.number_attr or item.type_list_attr for item in (*signature.input_arg, *signature.output_arg)):
        raise Unreadable("a function in it takes or returns a list")
    if any(item.HasField("default_value") for item in signature.attr):
        raise Unreadable("a function in it has an attribute with a default")
    scope = _Scope(function.node_def, arguments, in_function=True)
    sources = {item.key: item.value for item in function.ret}
    if len(sources) != len(function.ret) or sources.keys() != set(outputs):
        raise Unreadable("a function in it does not return what its signature names")
    _unique((item.key for item in function.control_ret), "control results of a function")
    if any(item.value not in scope.nodes for item in function.control_ret):
        raise Unreadable("a function in it waits for a node that does not exist")
    if not scope.names.isdisjoint(outputs):
        raise Unreadable("a result of a function in it has the name of a node or an argument")
    return scope.body(signature.name, {name: scope.source(sources[name]) for name in outputs})


class _Scope:
    """The names in a graph or in a function.

    Args:
        nodes: its nodes.
        arguments: names of the function's arguments.
        in_function: it is a function's body.
    """

    def __init__(self, nodes: Iterable[Message], arguments: Sequence[bytes] = (), *, in_function: bool = False) -> None:
        nodes = list(nodes)
        self.nodes = dict(zip(_checked_names((node.name for node in nodes), "nodes"), nodes, strict=True))
        self.arguments = arguments
        self._known = frozenset(arguments)
        self._in_function = in_function
        self.names = self._known.union(self.nodes)
        if len(self.names) < len(self._known) + len(self.nodes):
            raise Unreadable("a node and an argument of a function in it have the same name")

    def source(self, reference: bytes) -> Source:
        """Return the tensor that a reference stands for."""
        if not self._in_function:
            tensor = _indexed(reference)
        elif match := _OF_NODE.fullmatch(reference):
            tensor = Source(match[1], int(match[3]), match[2])
        else:
            tensor = _indexed(reference)
            if tensor.name not in self._known or tensor.index:
                raise Unreadable("a reference in a function in it is to no single tensor")
            return Source(tensor.name, is_argument=True)
        if tensor.name not in self.nodes:
            raise Unreadable("a reference in it is to a node that does not exist")
        return tensor

    def body(self, name: bytes, results: Mapping[bytes, Source]) -> Body:
        inputs: dict[bytes, Sequence[Source]] = {}
        controls: dict[bytes, Sequence[bytes]] = {}
        for node in self.nodes.values():
            control_names = [reference[1:] for reference in node.input if reference.startswith(b"^")]
            tensors = node.input[: len(node.input) - len(control_names)]
            if any(reference not in self.names for reference in control_names):
                raise Unreadable("a node in it waits for a node that does not exist")
            # Control inputs come last: a `^name` before a tensor does not resolve.
            inputs[node.name], controls[node.name] = [self.source(reference) for reference in tensors], control_names
        return Body(name, self.arguments, results, self.nodes, inputs, controls)


def _indexed(reference: bytes) -> Source:
    match = _INDEXED.fullmatch(reference)
    if match is None:
        raise Unreadable("a reference in it is malformed")
    return Source(match[1], int(match[2] or 0))


def _checked_names(names: Iterable[bytes], kind: str) -> list[bytes]:
    """Check that each name is one that TensorFlow allows for a node."""
    checked = _unique(names, kind)
    if not all(map(_IS_NAME.fullmatch, checked)):
        raise Unreadable(f"one of the {kind} in it has an invalid name")
    return checked


def _unique(names: Iterable[bytes], kind: str) -> list[bytes]:
    listed = list(names)
    if len(set(listed)) != len(listed):
        raise Unreadable(f"two of the {kind} in it have the same name")
    return listed


@functools.cache
def _op_names() -> frozenset[bytes]:
    return frozenset(op.encode() for op in known_ops())
