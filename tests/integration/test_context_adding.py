"""Sums in NumPy have the bits of the fold in the C++ runtime, in the same order, and hold one reply at a time."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import tensorflow_federated as tff

from fedbroker.context.adding import ADDED_BYTES, ADDED_SILOS, SumMerger
from fedbroker.context.merging import PartialMerger
from fedbroker.context.values.codec import federate, write
from fedbroker.errors import WireError
from fedbroker.plan import make_plan
from fedbroker.session.merge_scheduler import MergeScheduler
from tests.support.transports import eventually

TYPES = [
    tff.to_type((np.float32, [257])),
    tff.to_type(np.float64),
    tff.to_type((np.int64, [5, 3])),
    tff.to_type(((np.int8, [9]), (np.uint64, [4]), np.int32)),
    tff.to_type(OrderedDict(a=(np.complex64, [3]), b=OrderedDict(c=np.float32, d=(np.int16, [0, 2])))),
]


def stage_of(type_):
    """Return the server stage that sums values of a type."""

    @tff.federated_computation(tff.FederatedType(type_, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(values)

    (stage,) = [stage for stage in make_plan(total).stages if getattr(stage, "fold", None)]
    assert stage.fold.adds
    return stage


def partials(type_, silos, seed):
    """Return partials as silos send them: numbers of every size, and those that are none."""
    random = np.random.default_rng(seed)

    def tensor(kind):
        dtype, shape = np.dtype(kind.dtype), tuple(kind.shape)
        if dtype.kind in "iu":
            bounds = np.iinfo(dtype)
            return random.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)
        chosen = random.standard_normal(shape) * 10.0 ** random.integers(-6, 7, shape)
        special = random.choice([0.0, -0.0, np.nan, np.inf, -np.inf, float(np.finfo(dtype).max)], shape)
        with np.errstate(all="ignore"):
            return np.where(random.random(shape) < 0.2, special, chosen).astype(dtype)

    def value(kind):
        if isinstance(kind, tff.StructType):
            return tff.structure.Struct([(name, value(part)) for name, part in tff.structure.iter_elements(kind)])
        return tensor(kind)

    return [
        federate([b"".join(map(bytes, write(value(type_), type_)))], tff.FederatedType(type_, tff.SERVER))
        for _ in range(silos)
    ]


@pytest.fixture
async def executor(own_runtime):
    return await own_runtime.executor(0)


@pytest.fixture
async def merged(executor):
    """Return a function that merges partials with a merger, and returns the bytes of the result."""

    async def merge(kind, stage, given):
        async def ready():
            return executor

        replies = MergeScheduler()
        running = kind(stage, replies, ready)
        try:
            for silo, partial in enumerate(given):
                replies.arrive(str(silo), [partial], len(partial))
                replies.advance([str(silo)])
            return bytes(await executor.compute(await running.result()))
        finally:
            await running.close()

    return merge


def in_runtime(stage, replies, ready):
    return PartialMerger(stage.fold, replies, ready, None)


@pytest.mark.parametrize("type_", TYPES, ids=str)
async def test_sums_have_the_bits_of_the_fold_in_the_runtime(merged, type_):
    stage = stage_of(type_)
    for silos in (1, 2, 3, ADDED_SILOS + 3):
        given = partials(type_, silos, silos)
        assert await merged(SumMerger, stage, given) == await merged(in_runtime, stage, given)


async def test_each_reply_is_released_once_it_is_added(executor):
    count = ADDED_BYTES // 4
    type_ = tff.to_type((np.float32, [count]))

    async def ready():
        return executor

    replies = MergeScheduler()
    running = SumMerger(stage_of(type_), replies, ready)
    for silo, partial in enumerate(partials(type_, 3, 7)):
        replies.arrive(str(silo), [partial], len(partial))
        replies.advance([str(silo)])
        await eventually(lambda: replies.outstanding == 0)
    await running.result()
    await running.close()


async def test_few_small_replies_are_left_to_the_stage(executor):
    type_ = TYPES[0]

    async def ready():
        return executor

    replies = MergeScheduler()
    running = SumMerger(stage_of(type_), replies, ready)
    given = partials(type_, 2, 1)
    for silo, partial in enumerate(given):
        replies.arrive(str(silo), [partial], len(partial))
        replies.advance([str(silo)])
    assert len(running.take_few()) == 2
    await running.close()


@pytest.mark.parametrize("wrong", [(np.float32, [256]), (np.float64, [257]), ((np.float32, [257]),)], ids=str)
async def test_partial_of_another_type_is_refused(merged, wrong):
    given = [*partials(TYPES[0], 1, 0), *partials(tff.to_type(wrong), 1, 0)]
    with pytest.raises(WireError, match="not of its type"):
        await merged(SumMerger, stage_of(TYPES[0]), given)
