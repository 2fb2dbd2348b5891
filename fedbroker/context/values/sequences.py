"""Reads sequences of results in the coordinator's isolated C++ runtime, because a silo's sequence is a graph it wrote.

A computation of ours iterates over the sequence once and returns its elements as tensors. The program's own process,
which is not isolated, gets the tensors and never the graph.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.types import type_analysis, type_transformations

from fedbroker.context.values.codec import MEMBERS, each, elements_of, federated, read, write
from fedbroker.context.values.containers import columns
from fedbroker.context.values.ops import parts_of
from fedbroker.errors import RuntimeUnavailable, WireError
from fedbroker.plan.model import ClientStage, Slot
from fedbroker.runtime import Executor
from fedbroker.runtime.values import SEQUENCE, Buffer, fields, struct
from fedbroker.wire.blobs import digest_of, joined

__all__ = ["MOST_ELEMENTS", "SequenceReader", "has_sequences", "read_sequences"]

MOST_ELEMENTS: Final = 10_000_000
"""Largest number of elements of a sequence: an endless one would use up the stage's time or the runtime's memory."""

BATCH: Final = 1 << 14
"""Elements that are joined at a time. TensorFlow allocates a whole batch beforehand: a large one takes seconds."""

_SAME_VERSION: Final = "use the same version of fedbroker on both sides"


@functools.lru_cache(4096)
def has_sequences(type_: tff.Type) -> bool:
    """Return whether values of a type contain sequences."""
    return bool(type_analysis.contains(type_, _is_sequence))


def _is_sequence(type_: tff.Type) -> bool:
    return isinstance(type_, tff.SequenceType)


async def read_sequences(value: Buffer, type_: tff.Type, executor: Executor) -> Buffer:
    """Replace each sequence in a serialized value by the struct of its tensors.

    Args:
        value: the serialized value.
        type_: its type.
        executor: an executor of the coordinator's runtime.

    Returns:
        A serialized value of that type in the form that :func:`fedbroker.context.values.codec.read` accepts.

    Raises:
        WireError: the value is not of that type, or a sequence in it is too long.
        ComputationFailed: a sequence in it cannot be read; with the runtime's error.
    """
    return joined(await _replaced(memoryview(value), type_, executor))


async def _replaced(value: memoryview, type_: tff.Type, executor: Executor) -> list[Buffer]:
    if not has_sequences(type_):
        return [value]
    if isinstance(type_, tff.SequenceType):
        return [await _tensors(value, type_.element, executor)]
    try:
        parts = list(each(value, *MEMBERS)) if isinstance(type_, tff.FederatedType) else list(elements_of(value))
    except ValueError as error:
        raise WireError(f"a silo's answer is not a value: {error}", hint=_SAME_VERSION) from None
    if isinstance(type_, tff.FederatedType):
        return federated([await _replaced(part, type_.member, executor) for part in parts], type_)
    if not isinstance(type_, tff.StructType) or len(parts) != len(type_):
        raise WireError(f"a value is not of the type {type_}", hint=_SAME_VERSION)
    inner = zip(tff.structure.iter_elements(type_), parts, strict=True)
    return struct([(name, await _replaced(part, element, executor)) for (name, element), part in inner])


async def _tensors(value: memoryview, element: tff.Type, executor: Executor) -> Buffer:
    """Return the struct of a sequence's length and its columns."""
    if [number for number, _ in fields(value)] != [SEQUENCE]:
        raise WireError("a value that should be a sequence is none", hint=_SAME_VERSION)
    computation = _reader(element)
    sequence = await executor.value(value)
    result = await executor.call(await executor.function(digest_of(computation), computation), sequence)
    tensors = await executor.compute(result)
    await executor.dispose([sequence, result])
    count = cast("Any", read(next(elements_of(tensors)), tff.TensorType(tf.int64.as_numpy_dtype)))
    if not isinstance(count, int | tf.int64.as_numpy_dtype) or count > MOST_ELEMENTS:
        raise WireError(
            f"a sequence has more than {MOST_ELEMENTS} elements",
            hint="return fewer, or reduce the sequence before it is returned",
        )
    return tensors


@functools.lru_cache(256)
def _reader(element: tff.Type) -> bytes:
    """Return the serialized computation from a sequence to the number of its elements and its columns."""
    element, _ = type_transformations.transform_type_postorder(element, _without_container)
    kinds = columns(element)

    def encoded(*arguments: object) -> tuple[tf.Tensor, ...]:
        is_tuple = isinstance(element, tff.StructType) and not tff.structure.name_list(element)
        leaves = _leaves(arguments if is_tuple else arguments[0], element)
        pairs = zip(kinds, leaves, strict=True)
        return (
            tf.constant(1, tf.int64),
            *(tf.io.serialize_tensor(leaf) if kind.is_serialized else leaf for kind, leaf in pairs),
        )

    def joined_to(total: tuple[tf.Tensor, ...], batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        return (
            total[0] + tf.reduce_sum(batch[0]),
            *(tf.concat([before, more], 0) for before, more in zip(total[1:], batch[1:], strict=True)),
        )

    def tensors(dataset: tf.data.Dataset) -> tuple[tf.Tensor, ...]:
        none = [tf.zeros([0, *_shape(kind.type)], tf.dtypes.as_dtype(kind.type.dtype.type)) for kind in kinds]
        batches = dataset.take(MOST_ELEMENTS + 1).map(encoded).batch(BATCH)
        return tuple(batches.reduce((tf.constant(0, tf.int64), *none), joined_to))

    computation = tff.tensorflow.computation(
        tf.autograph.experimental.do_not_convert(tensors), tff.SequenceType(element)
    )
    return bytes(joined(write(computation, computation.type_signature)))


def _shape(column: tff.TensorType) -> list[int]:
    """Return the shape of one element's part of a column."""
    assert column.shape is not None
    return [size for size in column.shape[1:] if size is not None]


def _leaves(value: object, type_: tff.Type) -> Iterator[tf.Tensor]:
    if isinstance(type_, tff.TensorType):
        yield value
        return
    for index, (name, inner) in enumerate(tff.structure.iter_elements(type_)):
        found = cast("Mapping[int | str, object]", value)[index if name is None else name]
        yield from _leaves(found, inner)


def _without_container(type_: tff.Type) -> tuple[tff.Type, bool]:
    """Return the type without Python containers; TensorFlow then uses ordered dictionaries and tuples."""
    if isinstance(type_, tff.types.StructWithPythonType):
        return tff.StructType(list(tff.structure.iter_elements(type_))), True
    return type_, False


AT_A_TIME: Final = 16
"""Number of silos whose sequences are read at once: each takes a thread of the runtime, and may never end."""


class SequenceReader:
    """The sequences that silos return in one stage, read as tensors, which are held until they are taken.

    Args:
        stage: the stage.
        executor: returns an executor of the coordinator's runtime with that many clients.
    """

    def __init__(self, stage: ClientStage, executor: Callable[[int], Awaitable[Executor]]) -> None:
        self._stage = stage
        self._executor = executor
        self._room = asyncio.Semaphore(AT_A_TIME)
        self._reading: dict[str, None] = {}
        self._tensors: dict[tuple[str, str], Buffer] = {}  # by slot and silo

    async def read(self, silo: str, outputs: Sequence[Buffer]) -> None:
        """Read the sequences in a silo's checked reply.

        Raises:
            WireError: a sequence is too long.
            ComputationFailed: a sequence cannot be read; with the runtime's error.
            RuntimeUnavailable: the runtime died; names the silos whose sequences were being read.
        """
        stage = self._stage
        returned = parts_of(stage, outputs)[len(stage.partials) :]
        async with self._room:
            self._reading[silo] = None
            try:
                executor = await self._executor(0)
                try:
                    for slot, value in zip(stage.returned, returned, strict=True):
                        if has_sequences(slot.type):
                            self._tensors[slot.name, silo] = await read_sequences(value, slot.type, executor)
                finally:
                    # Gives up a sequence that is still being read: its runtime then gets no new sessions.
                    await asyncio.shield(executor.close())
            except RuntimeUnavailable as error:
                silos = ", ".join(map(repr, self._reading))
                what = f"while sequences of silo {silos} were read in client stage {stage.number}: {error.what}"
                raise RuntimeUnavailable(what, retryable=error.retryable, hint=error.hint) from None
            finally:
                self._reading.pop(silo, None)

    def take(self, slot: Slot, silo: str, value: Buffer) -> Buffer:
        """Return a silo's value of a slot, with tensors in place of sequences; each is handed out once."""
        return self._tensors.pop((slot.name, silo), value)
