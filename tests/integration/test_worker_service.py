"""A silo in service on a real broker with the real C++ runtime; its work items are made by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets

import numpy as np
import pytest
from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import NameTaken, SiloError
from fedbroker.runtime.protos import executor_pb2
from fedbroker.transport import Dead
from fedbroker.wire import Limits, digest_of
from fedbroker.wire.messages import (
    Call,
    Column,
    Compute,
    Data,
    Drop,
    Failed,
    Need,
    Select,
    Source,
    Struct,
    Value,
)
from tests.support.gated_source import let_reads_return, read_count
from tests.support.proxy import Proxy
from tests.support.transports import eventually, queue_admin
from tests.support.worker import (
    ROWS,
    SILO,
    call_ops,
    echo_ops,
    identity_computation,
    load_settings,
    new_runtimes,
    running_silo,
    work_client,
)

SLOW = {"query": "select sum(a.i * b.i)::float as x from range(100000000) a(i), range(100000000) b(i)"}
RANDOM = {"query": "select random()::float as x from range(10)"}


@pytest.fixture
def own(broker, cohort, tmp_path):
    """Return a silo's settings."""
    big = {"query": "select i::double as x from range(500000) t(i)"}
    one = {"query": "select 7 as n"}
    sources = {"rows": {"query": ROWS}, "slow": SLOW, "random": RANDOM, "big": big, "one": one}
    return load_settings(tmp_path, broker.url, cohort, sources)


@pytest.fixture
def ours():
    """Return the C++ runtimes of the silo in this process."""
    return new_runtimes()


@pytest.fixture
async def both(ours, own):
    """Run a silo and its client."""
    async with running_silo(own) as pair:
        yield pair


@pytest.fixture
async def client(both):
    return both[1]


def members(output, dtype=np.float32):
    """Return the members of a clients-placed struct of arrays."""
    value = executor_pb2.Value.FromString(output)
    return [[np.frombuffer(e.value.array.content, dtype) for e in m.struct.element] for m in value.federated.value]


async def test_a_silo_announces_its_sources(both):
    _service, client = both
    await eventually(lambda: client.coordinator.announces[-1].sources["rows"].rows == 100)
    said = client.coordinator.announces[-1]
    assert said.silo == SILO
    assert said.version
    assert said.heartbeat == 0.5
    assert said.sources["rows"] == Source((Column("x", "float32"), Column("k", "int32")), rows=100)
    assert len({announce.incarnation for announce in client.coordinator.announces}) == 1


async def test_data_become_values(client):
    (output,) = await client.outputs(client.item(echo_ops()))
    np.testing.assert_array_equal(members(output), [[np.arange(100, dtype=np.float32)]])


async def test_source_without_clients_has_no_members(client):
    (output,) = await client.outputs(client.item(echo_ops(), clients=0))
    assert members(output) == []


async def test_every_op(client):
    function = identity_computation()
    program = [
        Data(1, "rows", (("x", "float32"), ("#1", "int64"))),
        Value(2, digest_of(function)),
        Struct(3, (("", 1), ("again", 1))),
        Call(4, 2, 3),
        Select(5, 4, 1),
        Compute(5),
        Compute(4),
        Drop((2, 3)),
        Compute(5),
    ]
    first, pair, again = await client.outputs(client.item(program), [function])
    assert first == again
    assert members(first)[0][0].tolist() == list(range(100))
    assert len(executor_pb2.Value.FromString(pair).struct.element) == 2


async def test_values_are_kept_until_the_last_stage(client):
    session = "kept"
    await client.outputs(client.item(echo_ops("random"), session=session, last=False))
    (first,) = await client.outputs(client.item([Compute(1)], session=session, stage=1, last=False))
    (second,) = await client.outputs(client.item([Compute(1)], session=session, stage=2))
    assert first == second
    assert members(first) != [[]]
    kind, line = await client.refused(client.item([Compute(1)], session=session, stage=3))
    assert kind == "lost"
    assert "session kept is unknown" in line


async def test_session_is_lost_after_its_lease(both):
    service, client = both
    await client.outputs(client.item(echo_ops(), session="short", last=False, lease=0.05))
    await eventually(lambda: len(service._sessions) == 0)
    kind, _ = await client.refused(client.item([Compute(1)], session="short", stage=1))
    assert kind == "lost"


async def test_large_outputs_are_sent_as_blobs(client):
    (output,) = await client.outputs(client.item(echo_ops("big", [("x", "float64")])))
    assert members(output, np.float64)[0][0].sum() == sum(range(500000))


async def test_large_blobs_are_received(client):
    value = executor_pb2.Value()
    value.array.dtype = 7  # DT_STRING
    value.array.shape.SetInParent()
    value.array.string_list.value.append(secrets.token_bytes(3_000_000))
    blob = value.SerializeToString()
    digest = digest_of(blob)
    item = client.item([Value(1, digest), Compute(1)], fresh={digest: len(blob)})
    sending = asyncio.create_task(client.transport.send_blob(digest, blob, silo=None, deadline=Deadline.after(20)))
    (output,) = await client.outputs(item)
    await sending
    assert executor_pb2.Value.FromString(output).array.string_list.value == value.array.string_list.value
    # The next session finds it in the cache.
    assert await client.outputs(client.item([Value(1, digest), Compute(1)])) == [output]


async def test_missing_blobs_are_requested(client):
    function = identity_computation()
    item = client.item(call_ops(function))
    reply = await client.send(item)
    assert isinstance(reply, Need)
    assert reply.digests == (digest_of(function),)
    assert len(await client.outputs(item, [function])) == 1


async def test_announced_blob_that_does_not_arrive_is_requested(broker, cohort, tmp_path):
    function = identity_computation()
    async with running_silo(load_settings(tmp_path, broker.url, cohort), patience=0.3) as (_, client):
        item = client.item(call_ops(function), fresh={digest_of(function): len(function)})
        reply = await client.send(item)
        assert isinstance(reply, Need)
        assert reply.digests == (digest_of(function),)


async def test_missing_blob_does_not_end_the_session(client):
    function = identity_computation()
    await client.outputs(client.item(echo_ops(), session="s", last=False))
    item = client.item([Value(2, digest_of(function)), Call(3, 2, 1), Compute(3)], session="s", stage=1)
    assert isinstance(await client.send(item), Need)
    assert len(await client.outputs(item, [function])) == 1


GARBAGE = b"\xff\xffno protobuf at all"


FAILURES = [
    (echo_ops("nope"), {}, "data", "source 'nope' does not exist at this silo; available: rows, slow"),
    (echo_ops(columns=[("z", "float32")]), {}, "data", "column 'z' does not exist; available: x, k"),
    (echo_ops(columns=[("x", "int32")]), {}, "data", "source 'rows': column 'x' does not convert to int32; ask for"),
    (echo_ops(columns=[("x", "float8")]), {}, "refused", "column 'x' is requested as 'float8'"),
    (echo_ops(), {"clients": 3}, "refused", "source 'rows' has 1 client, not 3"),
    (echo_ops("slow"), {"seconds": 0.3}, "timeout", "it was not done within 0.3 s"),
    (echo_ops(), {"seconds": 0.0}, "timeout", "it was not done within 0 s"),
    ([Compute(9)], {}, "refused", "the work item uses value 9, which this session does not have"),
    ([Drop((9,))], {}, "refused", "the work item uses value 9"),
    ([Data(1, "rows", (("x", "float32"),)), Select(2, 1, 7), Compute(2)], {}, "computation", ""),
    (
        [Data(1, "rows", (("x", "float32"),)), Select(2, 1, 2**40)],
        {},
        "refused",
        "unexpected ValueError in the silo; detail in the silo's log under id ",
    ),
    ([Data(1, "rows", (("x", "float32"),)), Call(2, 1, 1), Compute(2)], {}, "computation", ""),
    ([Value(1, digest_of(GARBAGE)), Compute(1)], {}, "refused", "cannot be parsed"),
    (echo_ops(), {"stage": 1}, "lost", "is unknown: this silo was restarted"),
]


async def test_each_failure_is_a_reply_and_the_next_item_succeeds(client):
    for program, options, kind, line in FAILURES:
        found, said = await client.refused(client.item(program, **options), [GARBAGE])
        assert (found, line in said) == (kind, True), said


async def test_a_scalar_source(client):
    program = [Data(1, "one", (("n", "int64"),), scalar=True), Compute(1)]
    (output,) = await client.outputs(client.item(program))
    member = executor_pb2.Value.FromString(output).federated.value[0]
    assert member.struct.element[0].value.array.int64_list.value == [7]


async def test_session_has_one_coordinator_and_a_fixed_number_of_clients(client, own):
    await client.outputs(client.item(echo_ops(), session="mine", last=False))
    async with work_client(own) as other:
        kind, line = await other.refused(other.item([Compute(1)], session="mine", stage=1))
        assert (kind, "belongs to another coordinator" in line) == ("refused", True)
    kind, line = await client.refused(client.item([Compute(1)], session="mine", stage=1, clients=0))
    assert (kind, "has 1 clients here, not 0" in line) == ("refused", True)
    assert len(await client.outputs(client.item([Compute(1)], session="mine", stage=1))) == 1


async def test_redelivered_work_is_answered_without_running_again(client):
    item = client.item(echo_ops("random"))
    first, again = await client.outputs(item), await client.outputs(item)
    assert first == again
    assert await client.outputs(client.item(echo_ops("random"))) != first


async def test_redelivered_failed_work_runs_again(client, tmp_path):
    session = "retry"
    kind, _ = await client.refused(client.item(echo_ops("slow"), session=session, seconds=0.2))
    assert kind == "timeout"
    assert len(await client.outputs(client.item(echo_ops(), session=session))) == 1


async def test_an_output_beyond_the_limit_is_refused(broker, cohort, tmp_path):
    sources = {"rows": {"query": ROWS}}
    limits = Limits(max_blob=2000)
    function = identity_computation()
    program = [*call_ops(function)[:-1], Struct(4, tuple(("", 3) for _ in range(6))), Compute(4)]
    own = dataclasses.replace(load_settings(tmp_path, broker.url, cohort, sources), limits=limits)
    async with running_silo(own) as (_, client):
        kind, line = await client.refused(client.item(program), [function])
        assert (kind, "more than the limit of 2000" in line) == ("refused", True), line


async def test_ended_session_stops_its_work(both):
    service, client = both
    item = client.item(echo_ops("slow"), session="gone", last=False)
    asking = asyncio.create_task(client.send(item))
    await eventually(lambda: ("", "gone", 0) in service._tasks._computing)
    await client.transport.end_session(SILO, "gone")
    await eventually(lambda: not service.statistics().running)
    assert len(service._sessions) == 0
    asking.cancel()
    kind, line = await client.refused(client.item(echo_ops(), session="gone"))
    assert (kind, "the coordinator ended the session" in line) == ("refused", True)


async def test_next_item_succeeds_after_the_runtime_was_killed(both, ours):
    _, client = both
    await client.outputs(client.item(echo_ops(), session="s", last=False))
    for runtime in ours():
        runtime.kill()
    reply = await client.send(client.item([Compute(1)], session="s", stage=1))
    assert isinstance(reply, Failed)
    assert reply.error_type == "lost"
    await client.check()


async def test_work_redelivered_while_running_runs_once(broker, cohort, tmp_path, waiting):
    async with Proxy(broker.url) as proxy:
        own = load_settings(tmp_path, proxy.url, cohort, waiting)
        async with SiloService(own), work_client(own, broker.url) as client:
            asking = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"))))
            await eventually(lambda: read_count(tmp_path) == 1)
            before = proxy.connections
            proxy.cut()
            await eventually(lambda: proxy.connections >= before + 2)
            await client.check()  # the silo is back, and got its work again before this
            let_reads_return(tmp_path)
            assert len(await asking) == 1
            assert read_count(tmp_path) == 1


async def test_work_done_during_a_broker_restart_is_answered(tmp_path, waiting):
    async with PrivateBroker(directory=tmp_path / "node") as node:
        own = load_settings(tmp_path, node.url, "restarted", waiting)
        async with running_silo(own) as (_, client):
            asking = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"), seconds=60)))
            await eventually(lambda: read_count(tmp_path) == 1)
            await asyncio.to_thread(node.stop)
            let_reads_return(tmp_path)
            await asyncio.to_thread(node.start)
            assert len(await asking) == 1
            assert read_count(tmp_path) == 1


async def test_draining_answers_the_current_work(broker, cohort, tmp_path, waiting):
    async with running_silo(load_settings(tmp_path, broker.url, cohort, waiting)) as (service, client):
        asking = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"))))
        await eventually(lambda: read_count(tmp_path) == 1)
        draining = asyncio.create_task(service.drain())
        await eventually(lambda: len(client.coordinator.leaves) == 1)
        refused = await client.send(client.item(echo_ops()))
        assert isinstance(refused, Failed)
        assert (refused.error_type, "leaving" in refused.cause) == ("lost", True)
        assert not draining.done()
        let_reads_return(tmp_path)
        assert len(await asking) == 1
        await draining
        nobody = await client.transport.request(client.item(echo_ops()), {}, Deadline.after(0.5))
        assert isinstance(nobody, Dead)
        assert nobody.reason == "expired"


async def test_draining_completes_open_sessions(both):
    service, client = both
    await client.outputs(client.item([Data(1, "rows", (("x", "float32"),))], session="s", last=False))
    draining = asyncio.create_task(service.drain())
    await eventually(lambda: len(client.coordinator.leaves) == 1)
    assert len(await client.outputs(client.item([Compute(1)], session="s", stage=1, last=False))) == 1
    assert not draining.done()
    assert len(await client.outputs(client.item([Compute(1)], session="s", stage=2))) == 1
    await draining


async def test_first_work_of_a_session_is_retried_after_a_runtime_death(broker, cohort, tmp_path, waiting, ours):
    async with running_silo(load_settings(tmp_path, broker.url, cohort, waiting)) as (_, client):
        asking = asyncio.create_task(client.outputs(client.item(echo_ops("waiting"))))
        await eventually(lambda: read_count(tmp_path) == 1)
        before = ours()
        for runtime in before:
            runtime.kill()
        await eventually(lambda: not any(runtime.is_running() for runtime in before))
        let_reads_return(tmp_path)
        assert len(await asking) == 1
        assert ours()
        assert read_count(tmp_path) == 1


async def test_notice_for_an_earlier_incarnation_is_ignored(both):
    _, client = both
    await client.outputs(client.item([Data(1, "rows", (("x", "float32"),))], session="s", last=False))
    await client.transport.end_session(SILO, "s", "somebody-else")
    assert len(await client.outputs(client.item([Compute(1)], session="s", stage=1))) == 1


async def test_reply_has_the_time_spent_waiting_for_blobs(both):
    _, client = both
    blob = identity_computation()
    program = call_ops(blob)
    item = client.item(program, fresh={digest_of(blob): len(blob)})
    asking = asyncio.create_task(client.send(item))
    await client.transport.send_blob(digest_of(blob), blob, silo=SILO, deadline=Deadline.after(10))
    done = await asking
    assert 0 < done.blob_wait <= done.duration


async def test_announcement_describes_the_silo(both):
    _, client = both
    said = client.coordinator.announces[-1]
    assert said.capabilities == ("replay/1", "shuffle/1")
    assert said.in_flight == 0


async def test_number_of_current_work_items_is_limited(broker, cohort, tmp_path, waiting):
    async with running_silo(load_settings(tmp_path, broker.url, cohort, waiting, max_work=2)) as (_, client):
        asking = [asyncio.create_task(client.outputs(client.item(echo_ops("waiting")))) for _ in range(3)]
        async with queue_admin(broker.url) as look:
            queue = f"fedbroker.work.{cohort}.{SILO}"
            await eventually(lambda: read_count(tmp_path) > 0)
            await eventually(lambda: look.holds(queue, 1))  # the third one
            let_reads_return(tmp_path)
            assert [len(outputs) for outputs in await asyncio.gather(*asking)] == [1, 1, 1]
            await eventually(lambda: look.holds(queue, 0))


async def test_number_of_sessions_is_limited(broker, cohort, tmp_path):
    async with running_silo(load_settings(tmp_path, broker.url, cohort, max_sessions=2)) as (_, client):
        keep = [Data(1, "rows", (("x", "float32"),))]
        for session in ("s1", "s2"):
            await client.outputs(client.item(keep, session=session, last=False))
        reply = await client.send(client.item(keep, session="s3", last=False))
        assert isinstance(reply, Failed)
        assert (reply.error_type, "2 sessions" in reply.cause) == ("refused", True)
        assert len(await client.outputs(client.item([Compute(1)], session="s1", stage=1))) == 1
        await client.outputs(client.item(keep, session="s3", last=False))


async def test_draining_ends_at_its_timeout(broker, cohort, tmp_path, waiting):
    own = load_settings(tmp_path, broker.url, cohort, waiting, drain_seconds=0.2)
    async with running_silo(own) as (service, client):
        asking = asyncio.create_task(client.send(client.item(echo_ops("waiting"))))
        await eventually(lambda: read_count(tmp_path) == 1)
        await service.drain()
        asking.cancel()
        let_reads_return(tmp_path)


async def test_second_silo_of_the_same_name_is_refused(client, own):
    with pytest.raises(NameTaken):
        await SiloService(own).open()
    await client.check()


async def test_failed_open_of_a_source_leaves_nothing_behind(broker, cohort, tmp_path, ours):
    own = load_settings(tmp_path, broker.url, cohort, {"rows": {"query": "from 'none.csv'"}})
    with pytest.raises(SiloError, match=r"source 'rows': IO Error: No files found"):
        await SiloService(own).open()
    assert ours() == []
