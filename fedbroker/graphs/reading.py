"""The TensorFlow ops in a serialized computation or sequence, however deep: graphs, their function libraries, nests.

Whatever cannot be read to its end is an error, and so is what would make the C++ runtime build a graph of bytes that
only come as it runs. Bounded in size, nodes and (by protobuf) depth. Imports runtime's framing and protos, and this
package.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from google.protobuf.message import DecodeError

from fedbroker.graphs.graphdef import Attribute, Graph, Message
from fedbroker.graphs.ops import known_ops
from fedbroker.runtime.framing import Buffer
from fedbroker.runtime.protos import computation_pb2

__all__ = ["Unreadable", "ops_of_computation", "ops_of_graph"]

MOST_BYTES: Final = 128 << 20
MOST_NODES: Final = 1_000_000

_CACHES: Final = frozenset({b"CacheDataset", b"CacheDatasetV2"})


class Unreadable(ValueError):
    """What is in it cannot be told."""


def ops_of_computation(serialized: Buffer) -> frozenset[str]:
    """Every op of every graph in a serialized ``Computation``, but calls of the graphs' own functions.

    A dataset's cache in memory does not count: only with a file's name is it the op that is asked about.

    Raises:
        Unreadable: it is malformed, too large, or holds something else than TensorFlow.
    """
    computation = _parsed(computation_pb2.Computation, serialized)
    found: set[str] = set()
    for tensorflow in _tensorflow(computation):
        fed = _fed(tensorflow)
        any_ = tensorflow.graph_def
        if any_.type_url.rpartition("/")[2] != "tensorflow.GraphDef":
            raise Unreadable(f"a graph in it is a {any_.type_url.rpartition('/')[2][:80]!r}")
        found |= ops_of_graph(any_.value, fed)
    return frozenset(found)


def ops_of_graph(serialized: Buffer, fed: Collection[bytes] = ()) -> frozenset[str]:
    """Every op of a serialized ``GraphDef`` and of its functions; see :func:`ops_of_computation`.

    Args:
        serialized: the graph.
        fed: names of nodes whose values are not their own, but are given with each call.

    Raises:
        Unreadable: it is malformed or too large.
    """
    graph = _parsed(Graph, serialized)
    functions = {function.signature.name for function in graph.library.function}
    bodies = [function.node_def for function in graph.library.function]
    if len(graph.node) + sum(map(len, bodies)) > MOST_NODES:
        raise Unreadable(f"a graph in it has more than {MOST_NODES} nodes")
    found = _ops(graph.node, fed).union(*(_ops(body, ()) for body in bodies))
    known = known_ops()
    # A function that is called like an op of TensorFlow's never counts as one of the graph's own.
    return frozenset(_text(op) for op in found if op not in functions or _text(op) in known)


def _ops(nodes: Iterable[Message], fed: Collection[bytes]) -> set[bytes]:
    found = {node.op for node in nodes}
    for op in _CACHES & found:
        if all(_in_memory(node, nodes, fed) for node in nodes if node.op == op):
            found.discard(op)
    return found


def _in_memory(cache: Message, nodes: Iterable[Message], fed: Collection[bytes]) -> bool:
    """Whether a dataset's cache has no file: the name that it takes is an empty constant, and stays that."""
    if len(cache.input) < 2:
        return False
    source = cache.input[1].partition(b":")[0]
    named = [node for node in nodes if node.name == source]
    return len(named) == 1 and named[0].op == b"Const" and source not in fed and _is_empty_text(named[0])


def _is_empty_text(constant: Message) -> bool:
    entries = [_parsed(Attribute, entry) for entry in constant.attr]
    values = [entry.value.tensor for entry in entries if entry.key == b"value"]
    return len(values) == 1 and list(values[0].string_val) == [b""] and not values[0].tensor_content


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _parsed(message: Message, serialized: Buffer) -> Message:
    if len(serialized) > MOST_BYTES:
        raise Unreadable(f"it takes more than {MOST_BYTES} bytes")
    try:
        return message.FromString(bytes(serialized))
    except DecodeError:
        raise Unreadable("it is malformed, or nested too deeply") from None


def _tensorflow(computation: Message) -> Iterator[Message]:
    """Every TensorFlow computation in one."""
    waiting = [computation]
    while waiting:
        one = waiting.pop()
        match one.WhichOneof("computation"):
            case "tensorflow":
                yield one.tensorflow
            case "intrinsic" | "reference" | "placement" | "literal":
                pass
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
            case kind:
                raise Unreadable(f"it holds {kind or 'a computation of an unknown kind'}")


def _fed(tensorflow: Message) -> frozenset[bytes]:
    """The nodes that a computation's parameter is put into.

    A sequence must never be bytes that the graph made, or that are fed as something else: the runtime makes a dataset
    of the graph that it finds in such bytes, and nobody has looked into that.

    Raises:
        Unreadable: that might be.
    """
    parameters = list(_leaves(tensorflow.parameter))
    sequences = [leaf.sequence for leaf in parameters if leaf.WhichOneof("binding") == "sequence"]
    returned = [leaf.sequence for leaf in _leaves(tensorflow.result) if leaf.WhichOneof("binding") == "sequence"]
    if any(one.WhichOneof("binding") != "variant_tensor_name" for one in (*sequences, *returned)):
        raise Unreadable("a sequence in it comes as the bytes of a graph")
    nodes = [_node(leaf) for leaf in parameters]
    if sequences and len(set(nodes)) < len(nodes):
        raise Unreadable("two of its parameters are one tensor")
    return frozenset(nodes)


def _leaves(binding: Message) -> Iterator[Message]:
    waiting = [binding]
    while waiting:
        one = waiting.pop()
        match one.WhichOneof("binding"):
            case "struct":
                waiting += one.struct.element
            case "tensor" | "sequence":
                yield one


def _node(leaf: Message) -> bytes:
    kind = leaf.WhichOneof("binding")
    name: str = leaf.tensor.tensor_name if kind == "tensor" else leaf.sequence.variant_tensor_name
    return name.partition(":")[0].removeprefix("^").encode()
