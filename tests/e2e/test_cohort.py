"""TFF programs over two silo processes and a real broker."""

from __future__ import annotations

import asyncio
import collections
import threading

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import CohortTimeout, DataError, PlanError, SiloError
from tests.e2e.conftest import ROWS
from tests.support import computations as c
from tests.support.local_tff import assert_same, pack_arguments
from tests.support.message_counts import message_counter
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

COLUMN = tff.TensorType(np.float32, [None])


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def count_and_sum(delays):
    size = tff.tensorflow.computation(lambda x: tf.size(x, out_type=tf.int64), COLUMN)
    add = tff.tensorflow.computation(lambda x: tf.reduce_sum(tf.cast(x, tf.float64)), COLUMN)
    return tff.federated_sum(tff.federated_map(size, delays)), tff.federated_sum(tff.federated_map(add, delays))


def everything():
    return [float(i * 7 % 50) for rows in ROWS.values() for i in range(rows)]


def test_sums_over_the_silos_data(run):
    assert run(count_and_sum, fedbroker.data("delays")) == (len(everything()), sum(everything()))


def test_lists_of_client_values_are_distributed_over_silos(run, tff_local):
    for values in ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0], [3.0, 4.0]):
        assert_same(run(c.two_barriers, values, 2.0), tff_local(c.two_barriers, values, 2.0))


def test_invocation_with_no_clients_returns_zero(run):
    assert run(c.total, []) == 0.0


def test_federated_averaging_equals_tffs_local_context(run, tff_local):
    process = tff.learning.algorithms.build_weighted_fed_avg(c.regression, tff.learning.optimizers.build_sgdm(0.01))
    state, data = run(process.initialize), c.client_data(5, 9)
    for _ in range(2):
        ours, theirs = run(process.next, state, data), tff_local(process.next, state, data)
        assert_same(ours, theirs)
        state = ours.state


def test_learning_over_the_silos_batches(run):
    process = tff.learning.algorithms.build_weighted_fed_avg(c.regression, tff.learning.optimizers.build_sgdm(1e-4))
    state, losses = run(process.initialize), []
    for _ in range(3):
        output = run(process.next, state, fedbroker.data("batches", batch_size=32))
        state, train = output.state, output.metrics["client_work"]["train"]
        assert train["num_examples"] == sum(ROWS.values())
        losses.append(float(train["loss"]))
    assert losses[2] < losses[0]


SUMMARY = collections.OrderedDict(n=np.int64, mean=np.float32)
ROW = collections.OrderedDict(minutes=np.float32)


@pytest.mark.parametrize(
    ("type_", "handle", "expected"),
    [
        (SUMMARY, fedbroker.data("summary"), list(ROWS.values())),
        (collections.OrderedDict(minutes=COLUMN), fedbroker.data("delays"), list(ROWS.values())),
        (tff.SequenceType(ROW), fedbroker.data("delays"), list(ROWS.values())),
        (
            tff.SequenceType(collections.OrderedDict(minutes=COLUMN)),
            fedbroker.data("delays", batch_size=64),
            list(ROWS.values()),
        ),
        (
            tff.SequenceType(collections.OrderedDict(minutes=tff.TensorType(np.float32, [64]))),
            fedbroker.data("delays", batch_size=64),
            [rows // 64 * 64 for rows in ROWS.values()],
        ),
        (collections.OrderedDict(name=tff.TensorType(np.str_, [None])), fedbroker.data("names"), [3, 3]),
    ],
)
def test_data_handles_bind_to_every_member_type(run, type_, handle, expected):
    member = tff.types.to_type(type_)

    def rows(value):
        if isinstance(value, tf.data.Dataset):
            return value.reduce(np.int64(0), lambda n, row: n + tf.size(tf.nest.flatten(row)[0], out_type=tf.int64))
        first = next(iter(value.values()))
        return first if first.shape.rank == 0 else tf.size(first, out_type=tf.int64)

    size = tff.tensorflow.computation(rows, member)

    @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
    def sizes(value):
        return tff.federated_map(size, value)

    assert run(sizes, handle) == expected


def test_client_results_are_in_the_order_of_the_silos(run):
    @tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
    def means(delays):
        return tff.federated_map(tff.tensorflow.computation(lambda x: tf.reduce_mean(x), COLUMN), delays)

    found = run(means, fedbroker.data("delays"))
    assert found == pytest.approx([np.mean([i * 7 % 50 for i in range(rows)]) for rows in ROWS.values()], rel=1e-5)


def test_message_count_equals_the_explanation(silos, context):
    exchanges = ("fedbroker.work", "fedbroker.reply", "fedbroker.dead")

    async def scenario(comp, args):
        async with message_counter(silos.url, *exchanges) as count:
            await asyncio.to_thread(context.invoke, comp, pack_arguments(comp, args))
            return await count()

    for comp, args in ((c.total, ([1.0, 2.0],)), (c.two_barriers, ([1.0, 2.0, 3.0], 1.0))):
        found = asyncio.run(scenario(comp, args))
        explained = fedbroker.explain(comp)
        assert found["fedbroker.work"] + found["fedbroker.reply"] == explained.messages(silos=2)
        assert found["fedbroker.work"] == 2 * explained.round_trips
        assert found["fedbroker.dead"] == 0


def test_server_computation_opens_no_connection():
    with fedbroker.create_sync_execution_context("amqp://127.0.0.1:1/", cohort="nobody", min_silos=1) as context:
        assert context.invoke(c.server_only, pack_arguments(c.server_only, (3.0,))) == (1.5, 3.0)


def test_sync_context_works_inside_a_running_event_loop(run):
    async def notebook():
        return run(c.total, [1.0, 2.0])

    assert asyncio.run(notebook()) == 3.0


def test_async_context_runs_many_invocations_at_once(silos):
    async def scenario():
        async with fedbroker.create_async_execution_context(silos.url, cohort=silos.cohort, min_silos=2) as context:
            calls = [context.invoke(c.total, pack_arguments(c.total, ([float(n), 1.0],))) for n in range(12)]
            return await asyncio.gather(*calls)

    assert asyncio.run(scenario()) == [n + 1.0 for n in range(12)]


def test_plain_call_runs_in_the_context_that_was_set(silos):
    stack = tff.framework.get_context_stack()
    before = stack.current
    try:
        with fedbroker.set_sync_execution_context(silos.url, cohort=silos.cohort, min_silos=2):
            assert c.total([1.0, 2.0, 3.0]) == 6.0
    finally:
        stack.set_default_context(before)


def test_rerun_notebook_cell_holds_the_resources_of_one_context(silos):
    """Compare connections, threads and processes after a cell's first and tenth run."""
    stack, this, port = (
        tff.framework.get_context_stack(),
        psutil.Process(),
        int(silos.url.rpartition(":")[2].split("/")[0]),
    )
    before = stack.current

    def held() -> tuple[int, int, int]:
        lines = [one for one in this.net_connections("tcp") if one.raddr and one.raddr.port == port]
        threads = [one for one in threading.enumerate() if one.name == f"fedbroker-{silos.cohort}"]
        return len(lines), len(threads), len(this.children())

    try:
        counts = []
        for _ in range(10):
            context = fedbroker.set_sync_execution_context(silos.url, cohort=silos.cohort, min_silos=2)
            assert c.total([1.0, 2.0, 3.0]) == 6.0
            counts.append(held())
        context.close()
    finally:
        stack.set_default_context(before)
    assert counts[-1] == counts[0]


def test_cohort_timeout_names_the_present_silos(silos):
    with fedbroker.create_sync_execution_context(
        silos.url, cohort=silos.cohort, min_silos=3, timeouts=fedbroker.Timeouts(join=1.5)
    ) as context:
        with pytest.raises(CohortTimeout, match="present: ewr, jfk") as caught:
            context.invoke(c.total, pack_arguments(c.total, ([1.0],)))
        assert caught.value.present == ("ewr", "jfk")


def test_invocation_uses_at_most_max_silos(silos):
    with fedbroker.create_sync_execution_context(silos.url, cohort=silos.cohort, max_silos=1, min_silos=1) as context:
        wait_until(
            lambda: (
                context.invoke(count_and_sum, pack_arguments(count_and_sum, (fedbroker.data("delays"),)))[0]
                == ROWS["ewr"]
            )
        )


@pytest.mark.parametrize(
    ("comp_type", "handle", "message"),
    [
        (COLUMN, fedbroker.data("trains"), "source 'trains': expected a source of that name"),
        (collections.OrderedDict(hours=COLUMN), fedbroker.data("delays"), "column 'hours'"),
        (collections.OrderedDict(minutes=tff.TensorType(np.int32, [None])), fedbroker.data("delays"), "found float64"),
    ],
)
def test_mismatched_data_is_refused_before_work_is_sent(silos, context, comp_type, handle, message):
    member = tff.types.to_type(comp_type)
    one = tff.tensorflow.computation(lambda x: tf.constant(1), member)

    @tff.federated_computation(tff.FederatedType(member, tff.CLIENTS))
    def count(values):
        return tff.federated_sum(tff.federated_map(one, values))

    async def scenario():
        async with message_counter(silos.url, "fedbroker.work") as messages:
            with pytest.raises(DataError, match="silos 'ewr', 'jfk' failed") as caught:
                await asyncio.to_thread(context.invoke, count, pack_arguments(count, (handle,)))
            assert message in str(caught.value)
            return await messages()

    assert asyncio.run(scenario()) == {"fedbroker.work": 0}


def test_failing_graph_raises_the_runtimes_message_and_silos_continue(run):
    @tff.federated_computation(c.AT_CLIENTS)
    def checked(x):
        return tff.federated_sum(tff.federated_map(c.positive, x))

    with pytest.raises(SiloError, match="assertion failed") as caught:
        run(checked, [1.0, -1.0])
    assert (caught.value.silo, caught.value.stage) == ("jfk", 0)
    assert "\n" not in str(caught.value)
    assert run(checked, [1.0, 2.0]) == 3.0


def test_computation_without_a_plan_is_refused(run):
    secure = tff.federated_computation(
        lambda x: tff.federated_secure_sum(x, 10), tff.FederatedType(np.int32, tff.CLIENTS)
    )
    with pytest.raises(PlanError):
        run(secure, [1, 2])
    assert run(c.total, [1.0]) == 1.0
