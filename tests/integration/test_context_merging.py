"""Partial aggregates merged in the C++ runtime as they arrive: in the given order, few at a time, failures released."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.context import merging
from fedbroker.context.merging import PartialMerger
from fedbroker.context.values.codec import ELEMENTS, federate, read, split, write
from fedbroker.errors import ComputationFailed, WireError
from fedbroker.plan import make_plan
from fedbroker.session.merge_scheduler import MergeScheduler
from tests.support.transports import eventually
from tests.support.worker import child_runtimes

VECTOR = tff.TensorType(np.float32, [None])


@pytest.fixture(scope="module")
def make_fold():
    """Return a function that makes the fold of a computation's only merging server stage."""

    def make(merge, type_=VECTOR):
        merging = tff.tensorflow.computation(merge, type_, type_)

        @tff.tensorflow.computation
        def zero():
            return tf.zeros([0], type_.dtype.type)

        @tff.tensorflow.computation(type_)
        def report(whole):
            return whole

        @tff.federated_computation(tff.FederatedType(type_, tff.CLIENTS))
        def aggregate(values):
            return tff.federated_aggregate(values, zero(), merging, merging, report)

        (fold,) = [stage.fold for stage in make_plan(aggregate).stages if getattr(stage, "fold", None)]
        return fold

    return make


@pytest.fixture
async def executor(own_runtime):
    return await own_runtime.executor(0)


class Replies(MergeScheduler):
    """Replies that arrive in their merge order; keeps the names of the silos whose replies were released."""

    def __init__(self):
        super().__init__()
        self.released = []

    def give(self, partials, silo):
        self.arrive(str(silo), partials, sum(map(len, partials)))
        self.advance([str(silo)])

    def release(self, batch):
        batch = list(batch)
        super().release(batch)
        self.released += [reply.silo for reply in batch]


@pytest.fixture
async def started(executor):
    """Start a merger, and return it with the replies that it merges; it is closed at the end."""
    kept = []

    def start(fold):
        async def ready():
            return executor

        replies = Replies()
        kept.append(PartialMerger(fold, replies, ready, None))
        return kept[-1], replies

    yield start
    for one in kept:
        await one.close()


def partial(*numbers):
    """Return a partial aggregate as a silo sends it."""
    member = b"".join(write(np.array(numbers, np.float32), VECTOR))
    return federate([member], tff.FederatedType(VECTOR, tff.SERVER))


def added(left, right):
    return left + right


def appended(left, right):
    return tf.concat([left, right], 0)


@pytest.mark.parametrize("silos", [1, 2, 3, merging.MAX_BATCH_SILOS + 1, 2 * merging.MAX_BATCH_SILOS + 3])
async def test_partials_are_merged_in_the_given_order(executor, started, make_fold, silos):
    running, replies = started(make_fold(appended))
    for silo in range(silos):
        replies.give([partial(silo)], silo)
    (whole,) = split(await executor.compute(await running.result()), ELEMENTS)
    assert read(whole, VECTOR).tolist() == list(range(silos))
    assert replies.released == [str(silo) for silo in range(silos)]


async def test_large_partials_are_merged_one_by_one(executor, started, make_fold):
    count = merging.LARGE_BATCH // 4
    running, replies = started(make_fold(added))
    for silo in range(4):
        replies.give([partial(*np.full(count, silo + 1))], silo)
        await eventually(lambda silo=silo: replies.released == [str(one) for one in range(silo + 1)])
    (whole,) = split(await executor.compute(await running.result()), ELEMENTS)
    np.testing.assert_array_equal(read(whole, VECTOR), np.full(count, 10.0))


async def test_runtime_releases_merged_partials(own_runtime, executor, started, make_fold, monkeypatch):
    silos, count = 40, 1 << 20  # of 4 MiB each
    monkeypatch.setattr(merging, "LARGE_BATCH", 4 * count)
    monkeypatch.setattr(merging, "MAX_HISTORY", 8 * 4 * count)
    (process,) = child_runtimes(own_runtime.pid)
    before = process.memory_info().rss
    (running, replies), most = started(make_fold(added)), 0
    for silo in range(silos):
        replies.give([partial(*np.full(count, silo))], silo)
        await eventually(lambda silo=silo: len(replies.released) == silo + 1)
        most = max(most, process.memory_info().rss)
    (whole,) = split(await executor.compute(await running.result()), ELEMENTS)
    np.testing.assert_array_equal(read(whole, VECTOR), np.full(count, sum(range(silos))))
    assert most - before < 2.5 * silos * 4 * count  # four times all partials


async def test_failed_merge_is_raised_at_the_end_without_blocking(started, make_fold):
    count = merging.LARGE_BATCH // 4 + 1
    running, replies = started(make_fold(added))
    for silo in range(6):
        replies.give([partial(*range(count + silo))], silo)
    await eventually(lambda: sorted(replies.released) == [str(silo) for silo in range(6)])
    replies.give([partial(1)], "late")
    assert replies.outstanding == 0
    with pytest.raises(ComputationFailed, match="Incompatible shapes"):
        await running.result()


async def test_invalid_partial_is_refused(started, make_fold):
    running, replies = started(make_fold(added))
    replies.give([b"nonsense"], "ewr")
    with pytest.raises(WireError):
        await running.result()


@pytest.mark.parametrize("wrong", [1, merging.MAX_BATCH_SILOS + 5])
async def test_silo_of_an_unmergeable_partial_is_found(executor, started, make_fold, wrong):
    running, replies = started(make_fold(added))
    for silo in range(2 * merging.MAX_BATCH_SILOS):
        numbers = range(3 if silo == wrong else 2)
        replies.give([partial(*numbers)], f"silo{silo}")
    with pytest.raises(ComputationFailed):
        await executor.compute(await running.result())
    found = await running.failure()
    assert found is not None
    assert found.silo == f"silo{wrong}"
    assert found.merged.startswith("'silo0'" if wrong == 1 else "'silo18', 'silo19', 'silo20', and 18 more")


async def test_silo_of_an_unmergeable_partial_is_found_among_few(started, make_fold):
    running, replies = started(make_fold(added))
    for silo, numbers in (("ewr", (1, 2)), ("jfk", (1, 2)), ("bos", (1, 2, 3))):
        replies.give([partial(*numbers)], silo)
    assert running.take_few()
    found = await running.failure()
    assert found == merging.MergeFailure("bos", "'ewr', 'jfk'")


async def test_no_silo_is_blamed_if_all_partials_merge(started, make_fold):
    running, replies = started(make_fold(added))
    for silo in ("ewr", "jfk"):
        replies.give([partial(1, 2)], silo)
    assert running.take_few()
    assert await running.failure() is None
