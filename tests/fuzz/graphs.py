"""The filter of TensorFlow ops against TensorFlow: graphs are mutated by their structure, and then run.

For every graph that TensorFlow can import, the filter must have listed every op, or rejected the graph. A graph that it
admits is run, and must leave no file behind, even if it holds a file's name.
"""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Callable, Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import tensorflow as tf

from fedbroker.graphs import Unreadable, ops_of_graph, why_refused
from tests.fuzz.importer import CRASH, REFUSED, imported

__all__ = ["EDITS", "PLACE", "admits", "edited"]

PLACE = b"/tmp/fedbroker-fuzz-0000000000/f"
"""Placeholder for a file's name in graphs; of the same length as its replacement."""

NAMES = ("filename", "out", "value0", "each", "value", "CacheDataset", "RangeDataset", "elsewhere", "tensor", "update")
OPS = (
    "Identity",
    "Const",
    "NoOp",
    "CacheDataset",
    "CacheDatasetV2",
    "Placeholder",
    "ReadFile",
    "PartitionedCall",
)
FORMS = ("{}", "{}:0", "{}:output:0", "{}:handle:0", "^{}", "{}:1", "{}:output", "{}:00", "{}:4294967296", "{}:0:0")


def admits(data: bytes) -> bool:
    """Return whether the filter admits a graph; an admitted graph is run.

    Raises:
        AssertionError: the filter has overlooked something.
    """
    # Only a graph with the file's name can write it: others are imported and not run, which takes a tenth of the time.
    names_it = PLACE in data
    data = data.replace(PLACE, str(_directory() / "f").encode())
    try:
        told = ops_of_graph(data)
    except Unreadable:
        return False
    found = imported(data, run=names_it and not any(map(why_refused, told)))
    if found == REFUSED:
        return False
    unseen = set() if found == CRASH else set(found.decode().split()) - told - {"CacheDataset", "CacheDatasetV2"}
    assert not unseen, f"overlooked: {unseen}"
    left = sorted(path.name for path in _directory().iterdir())
    for name in left:
        (_directory() / name).unlink()
    assert not left, f"files: {left}"
    return True


@functools.cache
def _directory() -> Path:
    path = Path(f"/tmp/fedbroker-fuzz-{random.SystemRandom().randrange(10**10):010}")
    assert len(str(path / "f")) == len(PLACE)
    path.mkdir()
    Finalize(None, shutil.rmtree, [path], exitpriority=10)  # at the end of any process, including a pool's
    return path


def edited(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Return the serialized graph with one change."""
    try:
        graph = tf.compat.v1.GraphDef.FromString(data)
        rng.choice(EDITS)(graph, rng, others)
        return bytes(graph.SerializeToString(deterministic=True))
    except (ValueError, IndexError):
        return data


def _bodies(graph: Any) -> list[Any]:
    return [graph.node, *(function.node_def for function in graph.library.function)]


def _node(graph: Any, rng: random.Random) -> Any:
    return rng.choice([node for body in _bodies(graph) for node in body])


def _function(graph: Any, rng: random.Random) -> Any:
    return rng.choice(list(graph.library.function))


def _name(graph: Any, rng: random.Random) -> str:
    return rng.choice([*NAMES, *(node.name for body in _bodies(graph) for node in body)])


def _reference(graph: Any, rng: random.Random) -> str:
    return rng.choice(FORMS).format(_name(graph, rng))


def rename_a_node(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    _node(graph, rng).name = _name(graph, rng)


def rename_an_argument(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    signature = _function(graph, rng).signature
    rng.choice([*signature.input_arg, *signature.output_arg]).name = _name(graph, rng)


def rename_a_function(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    _function(graph, rng).signature.name = rng.choice([_function(graph, rng).signature.name, *OPS])


def add_an_argument(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    signature = _function(graph, rng).signature
    argument = signature.input_arg.add(name=_name(graph, rng), type=tf.string.as_datatype_enum)
    if rng.random() < 0.5:
        argument.number_attr = "N"
        signature.attr.add(name="N", type="int", has_minimum=True, minimum=1)


def pass_an_argument(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    call = _node(graph, rng)
    call.input.append(_reference(graph, rng))
    call.attr["Tin"].list.type.append(tf.string.as_datatype_enum)
    call.attr["N"].i = rng.choice((1, 2, len(call.input)))


def rewire(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    node = _node(graph, rng)
    node.input[rng.randrange(len(node.input))] = _reference(graph, rng)


def wait_for(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    _node(graph, rng).input.append(f"^{_name(graph, rng)}")


def return_another(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    function = _function(graph, rng)
    function.ret[rng.choice(list(function.ret))] = _reference(graph, rng)


def swap_inputs(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    node = _node(graph, rng)
    names = list(node.input)
    rng.shuffle(names)
    node.input[:] = names


def copy_a_node(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    body = rng.choice(_bodies(graph))
    copied = body.add()
    copied.CopyFrom(_node(graph, rng))
    copied.name = _name(graph, rng)


def name_a_file(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    constants = [node for body in _bodies(graph) for node in body if node.op == "Const"]
    tensor = rng.choice(constants).attr["value"].tensor
    match rng.randrange(5):
        case 0:
            tensor.string_val.append(PLACE)
        case 1:
            tensor.string_val[:] = [PLACE]
        case 2:
            tensor.tensor_content = bytes([len(PLACE)]) + PLACE
        case 3:
            tensor.tensor_shape.unknown_rank = True
        case _:
            tensor.ClearField("tensor_shape")


def drop_an_attribute(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    node = _node(graph, rng)
    del node.attr[rng.choice(list(node.attr))]


def take_an_attribute_from_the_caller(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    node = _node(graph, rng)
    node.attr[rng.choice(list(node.attr))].placeholder = rng.choice(["N", "value", "f"])


def call_another(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    called = rng.choice([_function(graph, rng).signature.name, *OPS, "SymbolicGradient"])
    node = _node(graph, rng)
    functions = [value.func for value in node.attr.values() if value.WhichOneof("value") == "func"]
    if functions and rng.random() < 0.7:
        rng.choice(functions).name = called
    else:
        node.op = called


def add_a_gradient(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    names = [_function(graph, rng).signature.name for _ in range(2)]
    graph.library.gradient.add(function_name=names[0], gradient_func=names[1])


def overwrite(graph: Any, rng: random.Random, _: Sequence[bytes]) -> None:
    node = rng.choice(_bodies(graph)).add(name=_name(graph, rng), op=rng.choice(["InplaceUpdate", "AssignVariableOp"]))
    node.input[:] = [_reference(graph, rng) for _ in range(3)]
    node.attr["T"].type = tf.string.as_datatype_enum


def take_from_another(graph: Any, rng: random.Random, others: Sequence[bytes]) -> None:
    other = tf.compat.v1.GraphDef.FromString(rng.choice(others))
    if rng.random() < 0.5:
        graph.library.MergeFrom(other.library)
    else:
        rng.choice(_bodies(graph)).extend(rng.choice(_bodies(other)))


EDITS: Sequence[Callable[[Any, random.Random, Sequence[bytes]], None]] = (
    rename_a_node,
    rename_an_argument,
    rename_a_function,
    add_an_argument,
    pass_an_argument,
    rewire,
    wait_for,
    return_another,
    swap_inputs,
    copy_a_node,
    name_a_file,
    drop_an_attribute,
    take_an_attribute_from_the_caller,
    call_another,
    add_a_gradient,
    overwrite,
    take_from_another,
)
