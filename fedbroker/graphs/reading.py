"""The TensorFlow ops in a serialized computation or sequence: in graphs, function libraries and nested attributes.

A graph that cannot be read completely is an error, and so is a computation that makes the C++ runtime build a graph
from bytes that arrive only while it runs. Bounded in size, nodes and (by protobuf) depth.

``position_in`` finds the op at which a computation failed, from the C++ runtime's error message, without passing on the
message. TensorFlow appends the node's name to it, as in ``… [[{{node StringToNumber}}]]``. The rest of the message, and
the name itself, may contain text that a graph computed from its data. So names are only looked up: the result is an op
that is in the graph, and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from fedbroker.graphs.graphdef import STRING, Message, Unreadable, known_ops
from fedbroker.graphs.references import Body, Resolved, attributes, functions_in, node_of, resolve
from fedbroker.runtime.protos import computation_pb2, leaves
from fedbroker.runtime.values import Buffer

__all__ = ["Position", "Unreadable", "graphs_of_computation", "ops_of_computation", "ops_of_graph", "position_in"]

MAX_BYTES: Final = 128 << 20
"""Bytes of a computation or a graph: parsing one takes a multiple of its size in memory."""

_CACHES: Final = frozenset({b"CacheDataset", b"CacheDatasetV2"})

_NAME: Final = r"([A-Za-z0-9._][A-Za-z0-9._\\/>-]{0,999})"
_NODE: Final = re.compile(rf"(?:\{{\{{function_node {_NAME}\}}\}} ?)?\{{\{{node {_NAME}\}}\}}")
# Bounds on the search: the message may contain data of any size, and names that a graph made of it.
_MAX_NAMES: Final = 16
_MAX_CHARACTERS: Final = 1 << 16


def ops_of_computation(serialized: Buffer) -> frozenset[str]:
    """Return every op of every graph in a serialized ``Computation``, without calls of the graphs' own functions.

    A dataset's cache in memory does not count: the op is reported only if the cache has a file name.

    Raises:
        Unreadable: it is malformed, too large, or contains something else than TensorFlow.
    """
    computation = _computation(serialized)
    ops: set[str] = set()
    for tensorflow in _tensorflow(computation):
        ops |= ops_of_graph(_graph_of(tensorflow), _exposed(tensorflow))
    return frozenset(ops)


def graphs_of_computation(serialized: Buffer) -> Iterator[Resolved]:
    """Yield every graph in a serialized ``Computation``, in an order that depends on its bytes alone.

    Raises:
        Unreadable: it is malformed or too large, or a reference in it has no meaning or could have two.
    """
    for tensorflow in _tensorflow(_computation(serialized)):
        yield resolve(_checked_size(_graph_of(tensorflow)))


def ops_of_graph(serialized: Buffer, exposed: Collection[bytes] = ()) -> frozenset[str]:
    """Return every op of a serialized ``GraphDef`` and of its functions; see :func:`ops_of_computation`.

    A function that is called through an attribute is reported by its name, unless it is one of the graph's own.

    Args:
        serialized: the graph.
        exposed: names of nodes whose tensors each call feeds or fetches.

    Raises:
        Unreadable: it is malformed or too large, or a reference in it has no meaning or could have two.
    """
    graph = resolve(_checked_size(serialized))
    ops = _called_functions(graph)
    for body in graph.bodies:
        ops |= _ops(body, exposed if body is graph.graph else ())
    return frozenset(_text(op) for op in ops if op not in graph.functions)


def _ops(body: Body, exposed: Collection[bytes]) -> set[bytes]:
    ops = {node.op for node in body.nodes.values()}
    if not _CACHES.isdisjoint(ops):
        file_caches = {node.op for node in body.nodes.values() if node.op in _CACHES} - _memory_caches(body, exposed)
        ops = ops - _CACHES | file_caches
    return ops


def _memory_caches(body: Body, exposed: Collection[bytes]) -> set[bytes]:
    """Return the cache ops that no node uses with a file.

    A cache is in memory if its file name is an empty constant that no other node uses: TensorFlow has ops that
    overwrite a tensor in place.
    """
    caches = {name for name, node in body.nodes.items() if node.op in _CACHES}
    file_names = {name: body.inputs[name][1].name for name in caches if len(body.inputs[name]) > 1}
    shared = {source.name for source in body.results.values()}.union(exposed)
    for name, sources in body.inputs.items():
        shared.update(source.name for index, source in enumerate(sources) if name not in file_names or index != 1)
    in_memory = {
        name for name in set(file_names.values()) - shared if name in body.nodes and _is_empty_string(body.nodes[name])
    }
    file_caches = {body.nodes[name].op for name in caches if file_names.get(name) not in in_memory}
    return set(_CACHES) - file_caches


def _is_empty_string(node: Message) -> bool:
    value = attributes(node).get(b"value")
    if node.op != b"Const" or value is None or value.WhichOneof("value") != "tensor":
        return False
    tensor = value.tensor
    scalar = not tensor.tensor_shape.dim and not tensor.tensor_shape.unknown_rank
    return tensor.dtype == STRING and scalar and list(tensor.string_val) == [b""] and not tensor.tensor_content


def _called_functions(graph: Resolved) -> set[bytes]:
    """Return the names of all functions that are called through attributes, or are gradients."""
    library = graph.message.library
    names = {gradient.gradient_func for gradient in (*library.gradient, *library.registered_gradients)}
    for body in graph.bodies:
        for node in body.nodes.values():
            names.update(functions_in(node))
    for function in library.function:
        names.update(functions_in(function))
        for entry in function.arg_attr:
            names.update(functions_in(entry.value))
    return names - {b""}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _checked_size(serialized: Buffer) -> bytes:
    if len(serialized) > MAX_BYTES:
        raise Unreadable(f"it takes more than {MAX_BYTES} bytes")
    return bytes(serialized)


def _computation(serialized: Buffer) -> Message:
    try:
        return computation_pb2.Computation.FromString(_checked_size(serialized))
    except DecodeError:
        raise Unreadable("it is malformed, or nested too deeply") from None


def _graph_of(tensorflow: Message) -> bytes:
    any_ = tensorflow.graph_def
    if any_.type_url.rpartition("/")[2] != "tensorflow.GraphDef":
        raise Unreadable(f"a graph in it is a {any_.type_url.rpartition('/')[2][:80]!r}")
    return bytes(any_.value)


def _tensorflow(computation: Message) -> Iterator[Message]:
    """Yield every TensorFlow computation in a computation."""
    for leaf in leaves(computation):
        match leaf.WhichOneof("computation"):
            case "tensorflow":
                yield leaf.tensorflow
            case "intrinsic" | "reference" | "placement" | "literal":
                pass
            case kind:
                raise Unreadable(f"it holds {kind or 'a computation of an unknown kind'}")


def _exposed(tensorflow: Message) -> frozenset[bytes]:
    """Return the nodes whose tensors are fed from outside of a computation's graph, or leave it.

    A sequence must never consist of bytes that the graph computed, or that are fed as another type: the runtime makes a
    dataset of the graph in these bytes, which nothing has checked.

    Raises:
        Unreadable: a sequence could be such bytes.
    """
    parameters, results = list(_leaves(tensorflow.parameter)), list(_leaves(tensorflow.result))
    sequences = [leaf.sequence for leaf in (*parameters, *results) if leaf.WhichOneof("binding") == "sequence"]
    if any(sequence.WhichOneof("binding") != "variant_tensor_name" for sequence in sequences):
        raise Unreadable("a sequence in it comes as the bytes of a graph")
    fed = [node_of(_tensor_name(leaf)) for leaf in parameters]
    if len(set(fed)) < len(fed):
        raise Unreadable("two of its parameters are one tensor")
    token = tensorflow.session_token_tensor_name
    return frozenset([*fed, *(node_of(_tensor_name(leaf)) for leaf in results), *([node_of(token)] if token else ())])


def _leaves(binding: Message) -> Iterator[Message]:
    pending = [binding]
    while pending:
        inner = pending.pop()
        match inner.WhichOneof("binding"):
            case "struct":
                pending += inner.struct.element
            case "tensor" | "sequence":
                yield inner
            case _:
                pass


def _tensor_name(leaf: Message) -> str:
    tensor = leaf.WhichOneof("binding") == "tensor"
    return str(leaf.tensor.tensor_name if tensor else leaf.sequence.variant_tensor_name)


# --- the position of a failure ---


@dataclass(frozen=True, slots=True)
class Position:
    """A node of a computation; all numbers count from 0, in the order in which the computation is serialized.

    Attributes:
        op: TensorFlow's name of its op.
        graph: number of its graph among the computation's graphs.
        function: number of its function among the graph's functions; None for the graph itself.
        node: its number among the nodes of that graph or function.
    """

    op: str
    graph: int
    function: int | None
    node: int


def position_in(serialized: Buffer, message: str) -> Position | None:
    """Find the node of a computation that the runtime's error message names; None if it names none.

    Args:
        serialized: a ``Computation``.
        message: the runtime's error message; it may contain data.

    Raises:
        Unreadable: the computation is malformed or too large.
    """
    mentioned = [((match[1] or "").encode(), match[2].encode()) for match in _NODE.finditer(message[-_MAX_CHARACTERS:])]
    candidates = list(dict.fromkeys(reversed(mentioned)))[:_MAX_NAMES]  # the last ones are TensorFlow's own
    if not candidates:
        return None
    for number, graph in enumerate(graphs_of_computation(serialized)):
        positions = _positions(graph, number)
        for function, name in candidates:
            # The name of a node of an inlined function is prefixed with the caller's name.
            for suffix in _suffixes(name):
                if (position := positions.get((function, suffix)) or positions.get((None, suffix))) is not None:
                    return position
    return None


def _positions(graph: Resolved, number: int) -> dict[tuple[bytes | None, bytes], Position]:
    """Return the nodes of known ops by function and name; for None, the first node whose name is or ends in that."""
    positions: dict[tuple[bytes | None, bytes], Position] = {}
    known = known_ops()
    for body_number, body in enumerate(graph.bodies):
        for node, (name, message) in enumerate(body.nodes.items()):
            op = message.op.decode("utf-8", "replace")
            if op in known:
                position = Position(op, number, body_number - 1 if body_number else None, node)
                positions[body.name, name] = position
                positions.setdefault((None, name), position)
    # A graph may have its functions inlined, while TensorFlow still names the node as in the function.
    for (function, name), position in list(positions.items()):
        if function is not None:
            for suffix in _suffixes(name):
                positions.setdefault((None, suffix), position)
    return positions


def _suffixes(name: bytes) -> Iterator[bytes]:
    while name:
        yield name
        name = name.partition(b"/")[2]
